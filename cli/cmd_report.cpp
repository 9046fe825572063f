#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/report_stage.h"
#include "core/files.h"
#include "core/visible_text.h"
#include "evaluation/report.h"

namespace thresher::cli {

std::filesystem::path write_report(const std::filesystem::path& run_dir) {
  const std::filesystem::path path = run_dir / "report.html";
  write_file_atomically(path, evaluation::report_page(evaluation::read_run(run_dir)));
  return path;
}

namespace {

void run_report(const Options& options) {
  start(options);
  const std::filesystem::path path = write_report(options.path);
  print_result(options.json ? Json::object({{"report", path.string()}}).dump(2) + "\n"
                            : harmless_text(path.string()) + "\n");
}

}  // namespace

void add_report(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("report", "write RUN/report.html: one page on a run, for a browser");
  command->footer(
      "The page holds everything in one file and fetches nothing. `thresher run` writes it at its\n"
      "end; this writes it again, also while a run is going on.");
  const auto options = std::make_shared<Options>();
  command->add_option("RUN", options->path, "the run directory")->required();
  add_output_options(*command, *options);
  command->callback([&action, options] { action = [options] { run_report(*options); }; });
}

}  // namespace thresher::cli
