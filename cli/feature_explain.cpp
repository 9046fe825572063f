#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdlib>
#include <memory>

#include "cli/feature_explain.h"
#include "cli/feature_options.h"
#include "core/error.h"
#include "core/log.h"
#include "core/visible_text.h"
#include "evaluation/text_table.h"
#include "features/explanation_job.h"

namespace thresher::cli {
namespace {

using features::Explanation;
using features::ExplanationScore;

struct ExplainOptions : StoreOptions {
  features::ChatEndpoint endpoint;
  features::ExplanationPlan plan;
  std::string key_variable = "OPENAI_API_KEY", latents;
  std::int64_t limit = 0, seed = 42;
  int parallel = 4;
  bool dry_run = false;
};

std::int64_t parse_latent(std::string_view text) {
  std::int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    throw UsageError(fmt::format("--latents: {} is no number of a latent", visible_text(text)),
                     "numbers and ranges, such as 3,17,100-120");
  }
  return value;
}

/// "3,17,100-120".
std::vector<std::int64_t> parse_latents(std::string_view list, std::int64_t n_latents) {
  std::vector<std::int64_t> out;
  while (!list.empty()) {
    const std::size_t comma = list.find(',');
    const std::string_view part = list.substr(0, comma);
    list.remove_prefix(comma == std::string_view::npos ? list.size() : comma + 1);
    const std::size_t dash = part.find('-');
    const std::int64_t first = parse_latent(part.substr(0, dash));
    const std::int64_t last =
        dash == std::string_view::npos ? first : parse_latent(part.substr(dash + 1));
    if (last >= n_latents || last < first) {
      throw UsageError(fmt::format("--latents: {}", visible_text(part)),
                       fmt::format("latents from 0 to {}", n_latents - 1));
    }
    for (std::int64_t latent = first; latent <= last; ++latent) out.push_back(latent);
  }
  return out;
}

std::string score_text(const ExplanationScore& score) {
  if (!score.is_defined()) return "-";
  const ExplanationScore::Interval interval = score.interval();
  return fmt::format("{:.2f} [{:.2f}, {:.2f}]", score.balanced_accuracy(), interval.low,
                     interval.high);
}

std::string mean_text(const Json& score) {
  const Json& mean = score.at("mean_balanced_accuracy");
  if (mean.is_null()) return "not measured";
  std::string out = fmt::format("{:.3f}", mean.as_double());
  if (const Json* low = score.find("low")) {
    out += fmt::format(" [{:.3f}, {:.3f}]", low->as_double(), score.at("high").as_double());
  }
  return out + fmt::format(" over {} latents", score.at("n_latents").as_int());
}

std::string result_text(const std::vector<Explanation>& explanations, const Json& summary) {
  std::vector<std::vector<std::string>> lines = {{"latent", "detection", "fuzzing", "explanation"}};
  for (const Explanation& one : explanations) {
    lines.push_back({fmt::format("{}", one.latent), score_text(one.detection),
                     score_text(one.fuzzing),
                     one.text ? visible_text(*one.text) : fmt::format("({})", one.problem)});
  }
  return evaluation::text_table(std::move(lines), 4) +
         fmt::format(
             "\n{} of {} latents explained; balanced accuracy (chance is 0.5), 95 % "
             "intervals\ndetection {}, fuzzing {}; {} verdicts could not be read\n",
             summary.at("n_explained").as_int(), summary.at("n_latents").as_int(),
             mean_text(summary.at("detection")), mean_text(summary.at("fuzzing")),
             summary.at("n_unreadable_verdicts").as_int());
}

Json result_json(const std::vector<Explanation>& explanations, const Json& summary,
                 const features::ChatClient& client) {
  Json list = Json::array();
  for (const Explanation& one : explanations) {
    list.push_back(Json::object({{"latent", one.latent},
                                 {"explanation", one.text ? Json(visible_text(*one.text)) : Json()},
                                 {"problem", one.problem.empty() ? Json() : Json(one.problem)},
                                 {"detection", one.detection.to_json()},
                                 {"fuzzing", one.fuzzing.to_json()}}));
  }
  return Json::object({{"endpoint", client.endpoint().url},
                       {"model", client.endpoint().model},
                       {"n_requests", client.n_requests()},
                       {"summary", summary},
                       {"explanations", list}});
}

/// What would be asked first, without asking.
void show_first_question(const features::FeatureStore& store,
                         const std::vector<std::int64_t>& latents, const ExplainOptions& options) {
  if (latents.empty()) throw ConfigError("no latent fires in the store, there is nothing to ask");
  const features::LatentTexts texts = features::texts_of(store.feature(latents.front()));
  std::string shown;
  const features::Ask never = [&](const features::ChatQuestion& question) {
    for (const features::ChatMessage& message : question.messages) {
      shown += fmt::format("--- {}\n{}\n", message.role, harmless_text(message.content));
    }
    return std::string();
  };
  features::explain_latent(texts, options.plan, never);
  print_result(fmt::format("latent {}, the first of {}; nothing was sent\n{}", latents.front(),
                           latents.size(), shown));
}

void run_explain(ExplainOptions options) {
  start(options);
  const std::filesystem::path path = find_store(options);
  const features::FeatureStore store(path);
  options.plan.seed = static_cast<std::uint64_t>(options.seed);
  features::ExplanationJob job;
  job.store = path;
  job.answers = path.string() + ".answers";
  job.plan = options.plan;
  job.parallel = options.parallel;
  job.latents = options.latents.empty()
                    ? features::firing_latents(store, options.limit, options.plan.seed)
                    : parse_latents(options.latents, store.n_latents());
  if (options.dry_run) {
    show_first_question(store, job.latents, options);
    return;
  }
  if (options.endpoint.url.empty()) {
    throw UsageError("features explain: no --endpoint, and nothing is sent without one",
                     "--endpoint URL and --model NAME", "--dry-run shows what would be asked");
  }
  if (options.endpoint.model.empty()) {
    throw UsageError("features explain: --endpoint without --model", "--model NAME");
  }
  const char* key = std::getenv(options.key_variable.c_str());
  options.endpoint.key = key == nullptr ? "" : key;
  features::ChatClient client(options.endpoint);
  log_info(fmt::format("explain: {} latents, texts of the store go to {}{}", job.latents.size(),
                       options.endpoint.url,
                       key == nullptr ? fmt::format(" (no key in {})", options.key_variable) : ""));
  const std::vector<Explanation> explanations = features::explain_latents(job, client);
  const Json summary = features::summary_of(explanations);
  print_result(options.json ? result_json(explanations, summary, client).dump(2) + "\n"
                            : result_text(explanations, summary));
}

void add_endpoint_options(CLI::App& command, ExplainOptions& options) {
  command.add_option(
      "--endpoint", options.endpoint.url,
      "URL of an OpenAI-compatible server up to its version, http://127.0.0.1:8000/v1");
  command.add_option("--model", options.endpoint.model, "the model's name there");
  command
      .add_option("--key-env", options.key_variable,
                  "environment variable that holds the key, if any")
      ->capture_default_str();
  command.add_option("--timeout", options.endpoint.timeout_seconds, "seconds for one answer")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 86400.0));
  command.add_option("--attempts", options.endpoint.attempts, "of one question")
      ->capture_default_str()
      ->check(CLI::Range(1, 100));
  command
      .add_option("--requests-per-minute", options.endpoint.requests_per_minute,
                  "at most; 0: no limit")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6));
  command.add_option("--parallel", options.parallel, "questions on their way at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
}

void add_plan_options(CLI::App& command, ExplainOptions& options) {
  CLI::Option* latents =
      command.add_option("--latents", options.latents, "numbers and ranges, 3,17,100-120");
  command.add_option("--limit", options.limit, "that many of the latents that fire, drawn; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000000))
      ->excludes(latents);
  command.add_option("--shown", options.plan.n_shown, "texts in the question for an explanation")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  command
      .add_option("--scored", options.plan.n_scored,
                  "other texts to score it on, and as many silent ones; 0: no scores")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000));
  command.add_option("--seed", options.seed, "of drawn latents and the order of texts")
      ->capture_default_str();
}

}  // namespace

void add_feature_explain(CLI::App& parent, Action& action) {
  CLI::App* command =
      parent.add_subcommand("explain", "explanations of latents by a language model, with scores");
  command->footer(
      "Sends texts of the store to --endpoint and nowhere else; without it nothing is sent. "
      "Answers\n"
      "are kept beside the store, so the same command goes on where it was stopped. Scores: can "
      "the\n"
      "same model tell by the explanation which other texts activate the latent (detection), and\n"
      "which tokens in them do (fuzzing)? Balanced accuracy; 0.5 is chance.");
  const auto options = std::make_shared<ExplainOptions>();
  add_store_options(*command, *options);
  add_endpoint_options(*command, *options);
  add_plan_options(*command, *options);
  command->add_flag("--dry-run", options->dry_run, "show the first question and send nothing");
  command->callback([&action, options] { action = [options] { run_explain(*options); }; });
}

}  // namespace thresher::cli
