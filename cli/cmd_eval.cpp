#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/curve.h"
#include "cli/ranks.h"
#include "cli/report_stage.h"
#include "cli/stages.h"
#include "cli/text_inputs.h"
#include "core/config.h"
#include "core/files.h"
#include "evaluation/evaluation.h"

namespace thresher::cli {
namespace {

void run_eval(const Options& options, bool want_curve) {
  start(options);
  const std::filesystem::path run_dir = options.path;
  Experiment loaded = load_run(run_dir, options.overrides);
  use_kept_input(loaded);
  with_ranks(loaded.comm, loaded.run.place(), [&](comm::Communicator& comm) {
    Experiment experiment = loaded;  // ranks that are threads settle one each
    set_threads(experiment.run.threads, comm);
    Inputs inputs = load_inputs(experiment, comm);
    if (!want_curve) {
      const Json evaluation = evaluate_stage(experiment, run_dir, inputs, comm);
      if (!comm.is_root()) return;
      write_report(run_dir);
      print_result(options.json ? evaluation.dump(2) + "\n"
                                : evaluation::evaluation_table(evaluation));
      return;
    }
    const Json curve = held_out_curve(experiment, run_dir, inputs, comm);
    if (!comm.is_root()) return;
    write_file_atomically(run_dir / "curve.json", curve.dump(2) + "\n");
    if (options.json) {
      print_result(curve.dump(2) + "\n");
      return;
    }
    std::string text = fmt::format("{:>12}  {:<20} {:>8} {:>8}\n", "tokens", "sae", "fvu", "l0");
    for (const Json& point : curve.as_array()) {
      text += fmt::format("{:>12}  {:<20} {:>8.4f} {:>8.1f}\n", point.at("tokens").as_int(),
                          point.at("name").as_string(), point.at("fvu").as_double(),
                          point.at("l0").as_double());
    }
    print_result(text);
  });
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("eval", "measure a run's SAEs on held-out text, beside baselines");
  command->footer(
      "Writes RUN/evaluation.json and RUN/report.html, prints the table. Reads\n"
      "RUN/config.resolved.yaml; its paths are relative to the working directory.");
  const auto options = std::make_shared<Options>();
  const auto want_curve = std::make_shared<bool>(false);
  command->add_option("RUN", options->path, "the run directory")->required();
  add_set_option(*command, *options);
  add_output_options(*command, *options);
  command->add_flag("--curve", *want_curve,
                    "fvu and l0 of every kept checkpoint instead, into RUN/curve.json");
  command->callback(
      [&action, options, want_curve] { action = [=] { run_eval(*options, *want_curve); }; });
}

}  // namespace thresher::cli
