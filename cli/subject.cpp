#include "cli/subject.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <utility>

#include "activation_cache/cache.h"
#include "cli/ranks.h"
#include "cli/stages.h"
#include "comm/communicator.h"
#include "core/error.h"
#include "core/visible_text.h"
#include "evaluation/run_record.h"
#include "trainer/run_directory.h"

namespace thresher::cli {
namespace {

namespace fs = std::filesystem;
using features::NamedSae;

/// The norm limits that the run's cache had, from what the run itself keeps of them, or from the
/// cache.
std::vector<double> norm_limits(const Experiment& experiment, const Json& identity) {
  if (experiment.cache.drop_norm_above <= 0) return {};
  const Json* source = identity.is_object() ? identity.find("source") : nullptr;
  const Json* cache = source == nullptr ? nullptr : source->find("cache");
  if (cache != nullptr) return activation_cache::read_norm_limits(*cache);
  return activation_cache::read_norm_limits(
      activation_cache::read_cache_identity(experiment.cache.dir));
}

void check_host(const host_model::HostModelInfo& info, const Experiment& experiment,
                const Json& identity) {
  const auto fields = evaluation::flatten(identity.is_object() ? identity : Json::object());
  for (const auto& [field, value] : fields) {
    if (field != "source.cache.host_model.fingerprint" || value == Json(info.fingerprint)) continue;
    throw ConfigError(
        fmt::format("{}: these are not the weights whose activations the run was trained on",
                    visible_text(experiment.host_model.weights)),
        fmt::format("SHA-256 {}, found {}", evaluation::plain_value(value), info.fingerprint),
        "--set host_model.weights=... names the right ones");
  }
}

void check_sae(const NamedSae& one, const host_model::HostModelInfo& info,
               const std::string& path) {
  const host_model::HookPoint point = host_model::HookPoint::parse(one.hook_point);
  if (point.block >= info.n_blocks) {
    throw ConfigError(fmt::format("{}: the SAE {} reads {}, the host model has {} blocks",
                                  display_path(path), one.name, one.hook_point, info.n_blocks),
                      "the host model that the SAE was trained on");
  }
  if (one.sae.d_in() == info.width(point)) return;
  throw ConfigError(
      fmt::format("{}: the SAE {} reads {} values a token, the host model has {} at {}",
                  display_path(path), one.name, one.sae.d_in(), info.width(point), one.hook_point),
      "the host model that the SAE was trained on");
}

/// The SAEs of a run that were asked for, as the run ships them.
std::vector<NamedSae> load_run_saes(const Experiment& experiment, const SubjectOptions& options) {
  std::vector<NamedSae> saes;
  std::vector<std::string> known;
  for (const auto& config : experiment.saes) {
    known.push_back(config->name);
    if (!options.sae.empty() && config->name != options.sae) continue;
    saes.push_back({config->name, config->hook_point,
                    sae::load_saelens(trainer::sae_folder(options.path, config->name))});
  }
  if (saes.empty()) {
    const std::string nearest = nearest_name(options.sae, known);
    throw UsageError(fmt::format("--sae {} is no SAE of the run", visible_text(options.sae)),
                     fmt::format("one of {}", fmt::join(known, ", ")),
                     nearest.empty() ? "" : fmt::format("did you mean {}?", nearest));
  }
  return saes;
}

LoadedSubject load_run_subject(const SubjectOptions& options) {
  if (!options.host_model.empty()) {
    throw UsageError("--host-model with a run, which names its own",
                     "--host-model with the folder of an SAE",
                     "--set host_model.weights=... where the run's weights have moved");
  }
  LoadedSubject out;
  out.experiment = load_run(options.path, options.overrides);
  const Experiment& experiment = *out.experiment;
  if (experiment.activations) {
    throw ConfigError(fmt::format("{}: the run was trained on activations of its own",
                                  display_path(options.path)),
                      "a run with a host model, through which a text can be sent");
  }
  features::Subject& subject = out.subject;
  subject.saes = load_run_saes(experiment, options);
  const Json identity = evaluation::newest_identity(options.path);
  subject.tokenizer = load_experiment_tokenizer(experiment);
  const auto self = comm::make_self_communicator();
  if (experiment.run.place() == Device::kCuda) take_gpu(*self);
  subject.model = host_model::load_host_model(experiment.host_model, experiment.run.place());
  check_host(subject.model->info(), experiment, identity);
  subject.rules = {experiment.corpus, experiment.cache, norm_limits(experiment, identity)};
  set_threads(experiment.run.threads, *self);
  return out;
}

void load_model(const std::string& weights, features::Subject& subject) {
  host_model::HostModelConfig config;
  config.weights = weights;
  subject.tokenizer = corpus::load_tokenizer(weights);
  subject.model = host_model::load_host_model(config);
  subject.rules.corpus.context_tokens = std::min<std::int64_t>(
      subject.rules.corpus.context_tokens, subject.model->info().max_context_tokens);
  subject.rules.cache.drop_norm_above = 0;  // no cache, whose limits they would be
  set_threads({}, *comm::make_self_communicator());
}

/// What an SAE's metadata say of its training, where they say it.
void apply_metadata(const Json& metadata, features::Subject& subject) {
  corpus::CorpusConfig& corpus = subject.rules.corpus;
  if (const Json* size = metadata.find("context_size"); size != nullptr && size->is_integer()) {
    corpus.context_tokens = std::max<std::int64_t>(1, size->as_int());
  }
  const Json* bos = metadata.find("prepend_bos");
  if (bos != nullptr && bos->is_bool() && bos->as_bool()) corpus.prepend_bos = "document";
}

LoadedSubject load_folder_subject(const SubjectOptions& options) {
  if (options.host_model.empty()) {
    throw UsageError(fmt::format("{} holds an SAE alone", display_path(options.path)),
                     "--host-model WEIGHTS, the model whose activations it reads");
  }
  LoadedSubject out;
  NamedSae one;
  const fs::path folder = fs::path(options.path).lexically_normal();
  one.name = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  one.sae = sae::load_saelens(folder);
  const Json* hook = one.sae.metadata.find("hook_name");
  if (hook == nullptr || !hook->is_string()) {
    throw ConfigError(
        fmt::format("{}: the SAE does not say what it reads", display_path(folder / "cfg.json")),
        "metadata.hook_name, such as blocks.14.hook_resid_post");
  }
  one.hook_point = host_model::HookPoint::parse(hook->as_string()).name();
  apply_metadata(one.sae.metadata, out.subject);
  load_model(options.host_model, out.subject);
  if (out.subject.rules.corpus.prepend_bos == "document" && !out.subject.tokenizer->bos_id()) {
    throw ConfigError(fmt::format("{}: the SAE was trained behind BOS, the tokenizer has none",
                                  display_path(folder / "cfg.json")),
                      "the host model that the SAE was trained on");
  }
  out.subject.rules.cache.hook_points = {one.hook_point};
  out.subject.saes.push_back(std::move(one));
  return out;
}

}  // namespace

void add_subject_options(CLI::App& command, SubjectOptions& options) {
  command
      .add_option("SUBJECT", options.path,
                  "a run directory, the folder of an SAE in SAELens' layout, or a host model")
      ->required();
  command.add_option("--sae", options.sae, "one SAE of the run; all without it");
  command.add_option("--host-model", options.host_model,
                     "weights of the host model, for the folder of an SAE");
  add_set_option(command, options);
  add_output_options(command, options);
}

LoadedSubject load_subject(const SubjectOptions& options, Needs needs) {
  const fs::path path = options.path;
  LoadedSubject out;
  if (fs::exists(path / "config.resolved.yaml")) {
    out = load_run_subject(options);
  } else {
    if (!options.overrides.empty()) {
      throw UsageError("--set without a run, whose keys it would change", "a run directory");
    }
    if (!options.sae.empty()) {
      throw UsageError("--sae without a run, one of whose SAEs it would name", "a run directory");
    }
    if (fs::exists(path / "cfg.json")) {
      out = load_folder_subject(options);
    } else if (fs::is_regular_file(path) || fs::exists(path / "config.json")) {
      if (needs == Needs::kSae) {
        throw ConfigError(fmt::format("{} is a host model without an SAE", display_path(path)),
                          "a run directory, or the folder of an SAE with --host-model");
      }
      load_model(options.path, out.subject);
    } else {
      throw ConfigError(fmt::format("{}: there is neither a run nor an SAE nor a host model here",
                                    display_path(path)),
                        "a folder with config.resolved.yaml (a run), cfg.json (an SAE) or "
                        "config.json (a model), or a GGUF file",
                        "`thresher run EXPERIMENT.yaml` makes a run");
    }
  }
  for (const NamedSae& one : out.subject.saes) check_sae(one, out.subject.model->info(), path);
  return out;
}

}  // namespace thresher::cli
