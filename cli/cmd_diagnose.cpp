#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "activation_cache/cache.h"
#include "cli/commands.h"
#include "cli/ranks.h"
#include "cli/stages.h"
#include "cli/text_inputs.h"
#include "comm/communicator.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/visible_text.h"
#include "evaluation/run_record.h"
#include "features/damage.h"
#include "features/diagnosis.h"
#include "features/feature_store.h"
#include "trainer/run_directory.h"

namespace thresher::cli {
namespace {

namespace fs = std::filesystem;

struct DiagnoseOptions : Options {
  std::vector<std::string> against;
  features::DamageRequest damage;
  std::int64_t top = 20;
  bool record_only = false;
};

/// What the diagnosis says, for programs and for people.
struct Report {
  std::vector<features::Finding> findings;
  Json saes = Json::object();
  std::string text;
};

features::NamedSae load_run_sae(const fs::path& run, const std::string& name,
                                const std::string& hook_point) {
  return {name, hook_point, sae::load_saelens(trainer::sae_folder(run, name))};
}

/// cache_info of the run's cache; null where it is gone.
Json info_of_cache(const Experiment& experiment) {
  if (!fs::exists(fs::path(experiment.cache.dir) / "cache.json")) {
    log_warning(fmt::format("diagnose: {}: there is no cache, so nothing is said of norms",
                            display_path(experiment.cache.dir)));
    return {};
  }
  activation_cache::BatchPlan plan;
  plan.batch_tokens = 1;  // the shuffle is not looked at
  return activation_cache::cache_info(experiment.cache.dir, plan);
}

void add_finding(const std::optional<features::Finding>& finding, Report& report) {
  if (finding) report.findings.push_back(*finding);
}

/// Sends held-out text through the model with each SAE spliced in.
void measure(const DiagnoseOptions& options, Experiment& experiment, Report& report) {
  const auto self = comm::make_self_communicator();
  set_threads(experiment.run.threads, *self);
  use_kept_input(experiment);
  Inputs inputs = load_inputs(experiment, *self);
  const corpus::PackedContexts held_out = pack_contexts(inputs, corpus::Split::kHeldOut);
  const auto source = activation_cache::open_cache_source(experiment.cache.dir);
  const evaluation::EvaluationContext context =
      evaluation::make_evaluation_context(experiment.cache, *source);
  const features::DamageNames names = {
      [&](std::int64_t id) {
        const auto token = static_cast<std::int32_t>(id);
        return inputs.tokenizer->decode({&token, 1});
      },
      [&](std::int64_t document) { return inputs.corpus->document_name(document); }};
  const auto top = static_cast<std::size_t>(options.top);
  for (const auto& config : experiment.saes) {
    log_info(fmt::format("diagnose: {} on up to {} held-out tokens", config->name,
                         options.damage.tokens));
    const features::NamedSae sae = load_run_sae(options.path, config->name, config->hook_point);
    const features::Damage damage = features::measure_damage(options.damage, sae, context, held_out,
                                                             *inputs.tokenizer, *inputs.model);
    add_finding(features::error_finding(sae.name, damage), report);
    report.saes[sae.name]["damage"] = features::damage_json(damage, top, names);
    report.text += fmt::format("\n{}\n\n{}", sae.name, features::damage_text(damage, top, names));
  }
}

/// The SAE of another run that an SAE of this one is compared with: of the same name, or the only
/// one at the hook point.
features::NamedSae partner(const fs::path& run, const Experiment& other,
                           const sae::SaeConfig& config) {
  std::vector<std::string> at_point;
  for (const auto& one : other.saes) {
    if (one->hook_point != config.hook_point) continue;
    if (one->name == config.name) return load_run_sae(run, one->name, one->hook_point);
    at_point.push_back(one->name);
  }
  if (at_point.size() != 1) {
    throw ConfigError(fmt::format("{}: {} SAEs at {}, none of the name {}", display_path(run),
                                  at_point.size(), config.hook_point, visible_text(config.name)),
                      "a run with an SAE of the same name and hook point");
  }
  return load_run_sae(run, at_point.front(), config.hook_point);
}

/// Feature stores of the run, if there are any, show it on each latent's page.
void note_stability(const DiagnoseOptions& options, const std::string& sae,
                    const std::string& other, const features::Stability& stability) {
  const fs::path store = features::store_path(options.path, sae);
  if (!fs::exists(store)) return;
  const Json sha256 =
      sha256_file(trainer::sae_folder(options.path, sae) / "sae_weights.safetensors");
  if (features::FeatureStore(store).facts().at("sae_sha256") != sha256) {
    log_warning(
        fmt::format("{}: made from other weights, so nothing is noted in it", display_path(store)));
    return;
  }
  features::add_stability(store, other, stability.best_latent, stability.best_cosine);
  log_info(fmt::format("{}: notes for every latent how well {} finds it again", display_path(store),
                       visible_text(other)));
}

void compare_seeds(const DiagnoseOptions& options, const Experiment& experiment, Report& report) {
  for (const std::string& path : options.against) {
    const Experiment other = load_run(path, {});
    for (const auto& config : experiment.saes) {
      const features::Stability stability =
          features::decoder_stability(load_run_sae(options.path, config->name, config->hook_point),
                                      partner(path, other, *config));
      add_finding(features::stability_finding(config->name, path, stability), report);
      Json& entry = report.saes[config->name];
      if (entry.find("stability") == nullptr) entry["stability"] = Json::array();
      entry["stability"].push_back(features::stability_json(path, stability));
      note_stability(options, config->name, path, stability);
      report.text += fmt::format(
          "\n{} against {}: best decoder cosine {:.3f} in the mean, above {} for {:.1f} % of "
          "latents\n",
          config->name, visible_text(path), stability.mean, features::kStable,
          100 * stability.above);
    }
  }
}

void run_diagnose(const DiagnoseOptions& options) {
  start(options);
  const evaluation::RunRecord record = evaluation::read_run(options.path);
  Experiment experiment = load_run(options.path, options.overrides);
  Report report;
  report.findings = features::diagnose(record, info_of_cache(experiment));
  for (const auto& config : experiment.saes) report.saes[config->name] = Json::object();
  if (options.record_only || experiment.activations) {
    if (!options.record_only) log_info("diagnose: activations of its own: no text to look at");
  } else {
    measure(options, experiment, report);
  }
  compare_seeds(options, experiment, report);
  std::stable_sort(report.findings.begin(), report.findings.end(),
                   [](const auto& a, const auto& b) { return a.severity < b.severity; });
  if (options.json) {
    print_result(Json::object({{"run", options.path},
                               {"findings", features::findings_json(report.findings)},
                               {"saes", report.saes}})
                     .dump(2) +
                 "\n");
    return;
  }
  print_result(features::findings_text(report.findings) + report.text);
}

}  // namespace

void add_diagnose(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("diagnose", "what is wrong with a run, and where its SAEs hurt the model");
  command->footer(
      "Findings with their figures, thresholds and advice, most severe first; then the change of\n"
      "loss and fvu by token, position and document on held-out text. Exit code 0 whatever is "
      "found.");
  const auto options = std::make_shared<DiagnoseOptions>();
  command->add_option("RUN", options->path, "the run directory")->required();
  command->add_option(
      "--against", options->against,
      "runs with other seeds: which latents they find again; noted in the run's feature "
      "stores, too");
  command->add_option("--tokens", options->damage.tokens, "of held-out text")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--draws", options->damage.draws, "of random errors beside the SAE's")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000));
  command->add_option("--seed", options->damage.seed, "of random errors")->capture_default_str();
  command->add_option("--top", options->top, "lines of each list")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000));
  command->add_flag("--record-only", options->record_only,
                    "judge what the run recorded; read no text and no model");
  add_set_option(*command, *options);
  add_output_options(*command, *options);
  command->callback([&action, options] { action = [options] { run_diagnose(*options); }; });
}

}  // namespace thresher::cli
