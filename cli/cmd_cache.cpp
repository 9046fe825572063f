#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "activation_cache/cache.h"
#include "cli/commands.h"
#include "core/config.h"
#include "core/error.h"
#include "core/json.h"

namespace thresher::cli {
namespace {

void run_info(const Options& options, const activation_cache::BatchPlan& plan) {
  start(options);
  const Json info = activation_cache::cache_info(options.path, plan);
  print_result(options.json ? info.dump(2) + "\n" : to_yaml(info));
}

std::string describe(const activation_cache::Damage& damage) {
  const std::string rows = damage.end_row > damage.first_row
                               ? fmt::format(" rows {} to {}", damage.first_row, damage.end_row - 1)
                               : "";
  return fmt::format("{}: {}{}: {}", damage.file, damage.dataset, rows, damage.problem);
}

Json damage_json(const activation_cache::Damage& damage) {
  return Json::object({{"file", damage.file},
                       {"dataset", damage.dataset},
                       {"first_row", damage.first_row},
                       {"end_row", damage.end_row},
                       {"problem", damage.problem}});
}

void run_verify(const Options& options) {
  start(options);
  const std::vector<activation_cache::Damage> found = activation_cache::verify_cache(options.path);
  if (options.json) {
    Json list = Json::array();
    for (const activation_cache::Damage& damage : found) list.push_back(damage_json(damage));
    print_result(Json::object({{"is_sound", found.empty()}, {"damage", std::move(list)}}).dump(2) +
                 "\n");
  } else {
    for (const activation_cache::Damage& damage : found) print_result(describe(damage) + "\n");
    if (found.empty()) print_result(options.path + ": sound\n");
  }
  if (found.empty()) return;
  throw DataError(
      fmt::format("{}: {} of its parts {} damaged, the first: {}", options.path, found.size(),
                  found.size() == 1 ? "is" : "are", describe(found.front())),
      "a cache as it was committed",
      "`thresher harvest --fresh` makes a new one; the old one is kept");
}

void add_dir(CLI::App& command, Options& options) {
  command.add_option("DIR", options.path, "the cache's folder")->required();
  add_output_options(command, options);
}

}  // namespace

void add_cache(CLI::App& app, Action& action) {
  CLI::App* group = app.add_subcommand("cache", "look at and check an activation cache");
  group->require_subcommand(1);

  CLI::App* info = group->add_subcommand(
      "info", "identity, size, dropped rows, moments and the quality of the shuffle");
  const auto info_options = std::make_shared<Options>();
  const auto plan = std::make_shared<activation_cache::BatchPlan>();
  add_dir(*info, *info_options);
  info->add_option("--batch-tokens", plan->batch_tokens, "batch whose shuffle is measured")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  info->add_option("--lanes", plan->lanes, "lanes of that batch")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  info->add_option("--shuffle-window-tokens", plan->shuffle_window_tokens, "window of that shuffle")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  info->callback(
      [&action, info_options, plan] { action = [=] { run_info(*info_options, *plan); }; });

  CLI::App* verify =
      group->add_subcommand("verify", "read every committed byte and compare checksums");
  const auto verify_options = std::make_shared<Options>();
  add_dir(*verify, *verify_options);
  verify->callback([&action, verify_options] { action = [=] { run_verify(*verify_options); }; });
}

}  // namespace thresher::cli
