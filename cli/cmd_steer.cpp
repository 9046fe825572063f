#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <span>

#include "cli/commands.h"
#include "cli/plan_options.h"
#include "cli/subject.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/visible_text.h"
#include "features/feature_store.h"
#include "features/steering_study.h"

namespace thresher::cli {
namespace {

using features::SteeringPlan;

struct SteerOptions : SubjectOptions {
  std::string plan_file, page;
  std::vector<std::string> positive, negative;
};

/// The latent that the feature store of the run's SAE finds first.
std::int64_t find_latent(const std::string& run, const std::string& sae, std::string_view words) {
  const features::FeatureStore store(features::store_path(run, sae));
  const std::vector<features::LatentSummary> found = store.search(words, 1);
  if (found.empty()) {
    throw ConfigError(
        fmt::format("no latent of {} is found by \"{}\"", sae, visible_text(std::string(words))),
        "words that stand in a latent's contexts, tokens or explanations",
        "`thresher features search RUN WORDS` shows what is found");
  }
  log_info(fmt::format("steer: \"{}\" finds latent {} of {}", visible_text(std::string(words)),
                       found.front().latent, sae));
  return found.front().latent;
}

void run_steer(const SteerOptions& options, const PlanOptions<SteeringPlan, CLI::App>& given) {
  start(options);
  SteeringPlan plan;
  if (!options.plan_file.empty()) plan = features::read_steering_plan(options.plan_file);
  given.put_over(plan);
  if (plan.sae.empty()) plan.sae = options.sae;
  if (!options.positive.empty() || !options.negative.empty()) {
    plan.attributes.insert(plan.attributes.begin(),
                           {"--positive against --negative", options.positive, options.negative});
  }
  if (plan.direction.empty()) {
    throw UsageError("thresher steer: no direction",
                     "--direction, such as pair:Love|Hate or latent:7, or --plan FILE");
  }
  const features::Subject subject = load_subject(options, Needs::kModel).subject;
  const features::SteeringStudy study =
      features::run_steering_study(subject, plan, [&](std::string_view words) {
        return find_latent(options.path, subject.sae(plan.sae).name, words);
      });
  if (!options.page.empty()) {
    const std::string html = features::study_page(study, options.path).html();
    write_file_atomically(options.page, std::as_bytes(std::span(html)));
    log_info(fmt::format("steer: wrote {}", options.page));
  }
  print_result(options.json ? features::study_json(study).dump(2) + "\n"
                            : features::study_table(study));
}

}  // namespace

void add_steer(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("steer", "moves a model along directions and measures what it does");
  command->footer(
      "A direction is latent:N, pair:A|B, pairs:FILE, means:FILE, file:PATH or a sum such as\n"
      "1.5*pair:A|B+latent:7. Positions are all, end (from the prompt's last token on), last, or\n"
      "FIRST:END; sinks are never read or edited. What a plan file says, options override.");
  const auto options = std::make_shared<SteerOptions>();
  add_subject_options(*command, *options);
  command->add_option("--plan", options->plan_file, "a YAML file with what the options below say");
  const auto given = std::make_shared<PlanOptions<SteeringPlan, CLI::App>>(*command);
  const auto add = [&](const char* flag, auto SteeringPlan::*member, const char* help) {
    return given->add(flag, member, help);
  };
  add("--direction", &SteeringPlan::direction, "what is added");
  add("--kind", &SteeringPlan::kind, "add, clamp, scale or project");
  add("--at", &SteeringPlan::points, "a hook point, or N for blocks.N.hook_resid_post; repeatable");
  add("--positions", &SteeringPlan::positions, "positions that are edited; repeatable");
  add("--coefficient", &SteeringPlan::coefficients, "a coefficient or value; repeatable");
  add("--prompt", &SteeringPlan::prompts, "a prompt; repeatable");
  add("--prompting", &SteeringPlan::prompting, "baseline: a text before every prompt");
  add("--other", &SteeringPlan::others, "a direction for the matrix; repeatable");
  add("--confounder", &SteeringPlan::confounder, "a direction that is projected out");
  add("--prefix", &SteeringPlan::prefix, "what pairs are read behind; else BOS or a line break");
  add("--read", &SteeringPlan::read, "positions of a pair that are read: mean or last");
  add("--words", &SteeringPlan::words, "a file of words: success is their share in the texts");
  add("--controls", &SteeringPlan::controls, "differences of random pairs of words")
      ->check(CLI::Range(0, 10000));
  add("--isotropic", &SteeringPlan::isotropic, "isotropic draws; else as many as random pairs")
      ->check(CLI::Range(0, 10000));
  add("--max-tokens", &SteeringPlan::max_tokens, "tokens of a text")->check(CLI::Range(1, 4096));
  add("--temperature", &SteeringPlan::temperature, "of texts")->check(CLI::Range(0.0, 100.0));
  add("--top-p", &SteeringPlan::top_p, "of texts")->check(CLI::Range(1e-6, 1.0));
  add("--seed", &SteeringPlan::seed, "of texts and random directions")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--positive", options->positive, "a continuation of success; repeatable")
      ->allow_extra_args(false);
  command->add_option("--negative", options->negative, "a continuation of failure; repeatable")
      ->allow_extra_args(false);
  command->add_option("--page", options->page, "write a page, one HTML file");
  command->callback(
      [&action, options, given] { action = [options, given] { run_steer(*options, *given); }; });
}

}  // namespace thresher::cli
