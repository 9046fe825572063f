#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "cli/commands.h"
#include "core/error.h"
#include "core/files.h"
#include "core/visible_text.h"
#include "evaluation/comparison.h"

namespace thresher::cli {
namespace {

struct CompareOptions : Options {
  std::vector<std::string> runs;
  std::string html;
};

void run_compare(const CompareOptions& options) {
  start(options);
  if (std::filesystem::is_directory(options.html)) {
    throw UsageError(fmt::format("compare: --html {} is a folder", visible_text(options.html)),
                     "the name of the page's file",
                     fmt::format("--html {}", display_path(std::filesystem::path(options.html) /
                                                           "comparison.html")));
  }
  std::vector<evaluation::RunRecord> runs;
  for (const std::string& path : options.runs) runs.push_back(evaluation::read_run(path));
  const Json comparison = evaluation::compare_runs(runs);
  if (!options.html.empty()) {
    write_file_atomically(options.html, evaluation::comparison_page(runs, comparison));
  }
  print_result(options.json ? comparison.dump(2) + "\n" : evaluation::comparison_text(comparison));
}

}  // namespace

void add_compare(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("compare", "put runs beside each other: metrics, curves, settings");
  command->footer(
      "Prints a table of the metrics of every SAE of every run, best values marked by *, and the\n"
      "settings in which they differ. Warns where runs were not measured alike.");
  const auto options = std::make_shared<CompareOptions>();
  command->add_option("RUN", options->runs, "run directories")->required();
  command->add_option("--html", options->html, "write the comparison as one HTML page, too")
      ->type_name("OUT");
  add_output_options(*command, *options);
  command->callback([&action, options] { action = [options] { run_compare(*options); }; });
}

}  // namespace thresher::cli
