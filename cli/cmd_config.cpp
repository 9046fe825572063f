#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "cli/commands.h"
#include "cli/config_reference.h"
#include "cli/experiment.h"
#include "core/error.h"

namespace thresher::cli {
namespace {

void expect_path(const std::string& path, const std::string& key) {
  if (std::filesystem::exists(path)) return;
  throw IoError(
      fmt::format("{}: '{}' does not exist", key, path), {},
      fmt::format("relative paths start at '{}'", std::filesystem::current_path().string()));
}

void run_check(const Options& options) {
  start(options);
  const Experiment experiment = load_experiment(options.path, options.overrides);
  if (experiment.activations) {
    activation_cache::find_table_files(experiment.activations->paths, "activations.paths");
  } else {
    for (const std::string& path : experiment.corpus.paths) expect_path(path, "corpus.paths");
    expect_path(experiment.host_model.weights, "host_model.weights");
  }
  if (options.json) {
    print_result(Json::object({{"is_valid", true}, {"path", options.path}}).dump(2) + "\n");
  } else {
    print_result(options.path + ": ok\n");
  }
}

void run_show(const Options& options) {
  start(options);
  const Json resolved = load_experiment(options.path, options.overrides).resolved();
  print_result(options.json ? resolved.dump(2) + "\n" : to_yaml(resolved));
}

}  // namespace

void add_config(CLI::App& app, Action& action) {
  CLI::App* group = app.add_subcommand("config", "check, show and explain experiment files");
  group->require_subcommand(1);

  CLI::App* check = group->add_subcommand("check", "check an experiment file and its paths");
  const auto check_options = std::make_shared<Options>();
  add_experiment_options(*check, *check_options);
  check->callback([&action, check_options] { action = [=] { run_check(*check_options); }; });

  CLI::App* show = group->add_subcommand("show", "print it with every default filled in");
  const auto show_options = std::make_shared<Options>();
  add_experiment_options(*show, *show_options);
  show->callback([&action, show_options] { action = [=] { run_show(*show_options); }; });

  CLI::App* reference = group->add_subcommand("reference", "print every key with its meaning");
  const auto is_schema = std::make_shared<bool>(false);
  reference->add_flag("--json-schema", *is_schema, "a JSON Schema for editors instead of Markdown");
  reference->callback([&action, is_schema] {
    action = [=] {
      print_result(*is_schema ? config_json_schema().dump(2) + "\n" : config_reference());
    };
  });
}

}  // namespace thresher::cli
