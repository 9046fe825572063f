#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "cli/commands.h"
#include "cli/feature_build.h"
#include "cli/feature_explain.h"
#include "cli/feature_options.h"
#include "core/error.h"
#include "evaluation/text_table.h"
#include "features/feature_text.h"

namespace thresher::cli {
namespace {

void run_show(const StoreOptions& options, std::int64_t latent) {
  start(options);
  const features::FeatureStore store = open_store(options);
  const features::StoredFeature feature = store.feature(latent);
  print_result(options.json ? to_json(feature).dump(2) + "\n" : feature_text(feature));
}

void run_search(const StoreOptions& options, const std::vector<std::string>& words,
                std::int64_t limit) {
  start(options);
  const features::FeatureStore store = open_store(options);
  std::string query;
  for (const std::string& word : words) query += (query.empty() ? "" : " ") + word;
  const std::vector<features::LatentSummary> found = store.search(query, limit);
  if (!options.json) {
    print_result(features::summaries_text(found));
    return;
  }
  Json list = Json::array();
  for (const features::LatentSummary& one : found) list.push_back(to_json(one));
  print_result(Json::object({{"query", query}, {"latents", std::move(list)}}).dump(2) + "\n");
}

void add_show(CLI::App& parent, Action& action) {
  CLI::App* command = parent.add_subcommand("show", "everything that a store holds of one latent");
  const auto options = std::make_shared<StoreOptions>();
  const auto latent = std::make_shared<std::int64_t>(0);
  add_store_options(*command, *options);
  command->add_option("LATENT", *latent, "its number")->required();
  command->callback([&action, options, latent] { action = [=] { run_show(*options, *latent); }; });
}

void add_search(CLI::App& parent, Action& action) {
  CLI::App* command = parent.add_subcommand(
      "search", "latents by words of their tokens, contexts and explanations");
  command->footer(
      "Every word must be there; a word matches from its beginning, without regard to case, and\n"
      "no character is an operator. Latents whose explanations match come first.");
  const auto options = std::make_shared<StoreOptions>();
  const auto words = std::make_shared<std::vector<std::string>>();
  const auto limit = std::make_shared<std::int64_t>(20);
  add_store_options(*command, *options);
  command->add_option("WORDS", *words, "what to look for")->required();
  command->add_option("--limit", *limit, "latents to show")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  command->callback(
      [&action, options, words, limit] { action = [=] { run_search(*options, *words, *limit); }; });
}

}  // namespace

void add_features(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("features", "the dictionary that an SAE is");
  command->require_subcommand(1);
  add_feature_build(*command, action);
  add_show(*command, action);
  add_search(*command, action);
  add_feature_explain(*command, action);
}

}  // namespace thresher::cli
