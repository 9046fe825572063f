#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "cli/commands.h"
#include "cli/ranks.h"
#include "cli/stages.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/visible_text.h"
#include "corpus/document_reader.h"
#include "corpus/standard_input.h"
#include "evaluation/encode_text.h"
#include "evaluation/run_record.h"
#include "evaluation/text_table.h"
#include "trainer/run_directory.h"

namespace thresher::cli {
namespace {

using activation_cache::DropReason;

constexpr std::size_t kLargestText = std::size_t{16} << 20U;

struct EncodeOptions : Options {
  std::string text, file, sae;
  std::int64_t top = 5;
};

const char* reason_text(DropReason reason) {
  switch (reason) {
    case DropReason::kFirst:
      return "first position";
    case DropReason::kSpecial:
      return "special token";
    case DropReason::kNorm:
      return "outlier norm";
    case DropReason::kHeldOut:  // of own activations only
    case DropReason::kKept:
      break;
  }
  return "";
}

/// The SAEs that were asked for, as the run ships them.
struct RunSaes {
  std::vector<std::string> names;
  std::vector<sae::InferenceSae> saes;
  std::vector<evaluation::EncodingSae> entries;
};

RunSaes load_saes(const Experiment& experiment, const EncodeOptions& options) {
  RunSaes out;
  std::vector<std::string> known, hook_points;
  for (const auto& config : experiment.saes) {
    known.push_back(config->name);
    if (!options.sae.empty() && config->name != options.sae) continue;
    out.names.push_back(config->name);
    hook_points.push_back(config->hook_point);
    out.saes.push_back(sae::load_saelens(trainer::sae_folder(options.path, config->name)));
  }
  if (out.names.empty()) {
    const std::string nearest = nearest_name(options.sae, known);
    throw UsageError(
        fmt::format("encode: --sae {} is no SAE of the run", visible_text(options.sae)),
        fmt::format("one of {}", fmt::join(known, ", ")),
        nearest.empty() ? "" : fmt::format("did you mean {}?", nearest));
  }
  for (std::size_t i = 0; i < out.saes.size(); ++i) {
    out.entries.push_back({hook_points[i], &out.saes[i]});
  }
  return out;
}

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

Json token_json(const evaluation::EncodedToken& token, const RunSaes& saes) {
  Json by_sae = Json::object();
  for (std::size_t i = 0; i < saes.names.size(); ++i) {
    Json latents = Json::array();
    for (const auto& [latent, activation] : token.latents[i]) {
      latents.push_back(
          Json::object({{"latent", latent}, {"activation", static_cast<double>(activation)}}));
    }
    by_sae[saes.names[i]] = Json::object({{"n_active", token.n_active[i]}, {"latents", latents}});
  }
  const bool is_kept = token.dropped == DropReason::kKept;
  return Json::object({{"id", static_cast<std::int64_t>(token.id)},
                       {"text", visible_text(token.bytes)},
                       {"context", token.context},
                       {"position", token.position},
                       {"dropped", is_kept ? Json() : Json(reason_text(token.dropped))},
                       {"saes", is_kept ? by_sae : Json()}});
}

std::string tokens_text(const std::vector<evaluation::EncodedToken>& tokens, const RunSaes& saes) {
  std::string out;
  for (std::size_t i = 0; i < saes.names.size(); ++i) {
    std::vector<std::vector<std::string>> lines = {{"token", "latent:activation"}};
    for (const evaluation::EncodedToken& token : tokens) {
      std::string latents;
      for (const auto& [latent, activation] : token.latents[i]) {
        latents += fmt::format("{}{}:{:.3g}", latents.empty() ? "" : "  ", latent, activation);
      }
      if (token.dropped != DropReason::kKept) {
        latents = fmt::format("(dropped: {})", reason_text(token.dropped));
      }
      lines.push_back({token.bytes, latents});
    }
    out += fmt::format("{}{} at {}\n\n{}", i == 0 ? "" : "\n", saes.names[i],
                       saes.entries[i].hook_point, evaluation::text_table(std::move(lines), 2));
  }
  return out;
}

/// The text that is asked about; a file is read with the checks of a corpus.
std::string text_of(const EncodeOptions& options, const Experiment& experiment) {
  if (options.file.empty()) return options.text;
  corpus::DocumentFormat format;
  format.max_expansion = experiment.corpus.max_expansion;
  format.max_document_bytes = kLargestText;
  std::filesystem::path path = options.file;
  FileDescriptor held;
  if (options.file == "-") {
    held = corpus::hold_standard_input(STDIN_FILENO, kLargestText);
    path = corpus::held_path(held);
    format.shown_name = "standard input";
  }
  std::string text;
  const corpus::FileReport report = corpus::read_documents(
      path, format, [&](std::string_view whole, std::int64_t) { text = whole; });
  if (report.n_nul_bytes + report.n_invalid_utf8_bytes > 0) {
    log_warning(fmt::format("encode: the text has {} NUL bytes and {} bytes that are not UTF-8",
                            report.n_nul_bytes, report.n_invalid_utf8_bytes));
  }
  return text;
}

void run_encode(const EncodeOptions& options) {
  start(options);
  const Experiment experiment = load_run(options.path, options.overrides);
  if (experiment.activations) {
    throw ConfigError(fmt::format("{}: the run was trained on activations of its own",
                                  display_path(options.path)),
                      "a run with a host model, through which a text can be sent");
  }
  const std::string text = text_of(options, experiment);
  const RunSaes saes = load_saes(experiment, options);
  const Json identity = evaluation::newest_identity(options.path);
  const std::unique_ptr<corpus::Tokenizer> tokenizer = load_experiment_tokenizer(experiment);
  const auto self = comm::make_self_communicator();
  if (experiment.run.place() == Device::kCuda) take_gpu(*self);
  const std::unique_ptr<host_model::HostModel> model =
      host_model::load_host_model(experiment.host_model, experiment.run.place());
  check_host(model->info(), experiment, identity);
  set_threads(experiment.run.threads, *self);
  const std::vector<evaluation::EncodedToken> tokens = evaluation::encode_text(
      text, {experiment.corpus, experiment.cache, norm_limits(experiment, identity)}, saes.entries,
      options.top, *tokenizer, *model);
  if (!options.json) {
    print_result(tokens_text(tokens, saes));
    return;
  }
  Json list = Json::array();
  for (const evaluation::EncodedToken& token : tokens) list.push_back(token_json(token, saes));
  print_result(
      Json::object({{"run", options.path}, {"saes", Json::array_of(saes.names)}, {"tokens", list}})
          .dump(2) +
      "\n");
}

}  // namespace

void add_encode(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("encode", "the latents that each token of a text activates");
  command->footer(
      "Runs the text through the run's host model as in training: contexts of the same length, "
      "the\n"
      "same positions left out (they are marked). Bytes that cannot be shown stand as \\xNN.");
  const auto options = std::make_shared<EncodeOptions>();
  command->add_option("RUN", options->path, "the run directory")->required();
  CLI::Option* text = command->add_option("--text", options->text, "the text");
  CLI::Option* file = command->add_option(
      "--file", options->file,
      "a file with the text in UTF-8, packed or not, at most 16 MiB; -: standard input");
  text->excludes(file);
  command->add_option("--sae", options->sae, "one SAE of the run; all without it");
  command->add_option("--top", options->top, "latents a token, those of largest activation")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000));
  add_set_option(*command, *options);
  add_output_options(*command, *options);
  command->callback([&action, options, text, file] {
    if (text->count() + file->count() == 0) {
      throw UsageError("thresher encode: neither --text nor --file", "one of the two");
    }
    action = [options] { run_encode(*options); };
  });
}

}  // namespace thresher::cli
