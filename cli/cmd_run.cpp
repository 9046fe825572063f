#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <memory>

#include "cli/commands.h"
#include "cli/ranks.h"
#include "cli/report_stage.h"
#include "cli/run_status.h"
#include "cli/stages.h"
#include "core/progress.h"
#include "evaluation/evaluation.h"
#include "trainer/run_directory.h"

namespace thresher::cli {
namespace {

/// Seconds since the last call, for the table of stages.
class StageClock {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - begin_).count();
    begin_ = now;
    return seconds;
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

struct Outcome {
  activation_cache::HarvestResult harvest;
  trainer::TrainResult train;
  Json evaluation;
  double load_seconds = 0, harvest_seconds = 0, train_seconds = 0, evaluate_seconds = 0;
};

Json seconds_json(const Outcome& outcome) {
  return Json::object({{"load", outcome.load_seconds},
                       {"harvest", outcome.harvest_seconds},
                       {"train", outcome.train_seconds},
                       {"evaluate", outcome.evaluate_seconds}});
}

std::string outcome_text(const Experiment& experiment, const Outcome& outcome) {
  std::string text = evaluation::evaluation_table(outcome.evaluation);
  text += "\nstage      time\n";
  const auto row = [&](const char* name, double seconds, bool was_complete) {
    text += fmt::format("{:<9}  {}{}\n", name, format_duration(seconds),
                        was_complete ? " (was complete already)" : "");
  };
  row("load", outcome.load_seconds, false);
  row("harvest", outcome.harvest_seconds, outcome.harvest.was_complete);
  row("train", outcome.train_seconds, outcome.train.was_complete);
  row("evaluate", outcome.evaluate_seconds, false);
  const std::filesystem::path run_dir = experiment.run_dir();
  return text + fmt::format("\n{}\n{}\n", run_dir.string(), (run_dir / "report.html").string());
}

/// A stage of rank 0 that the others wait for.
std::unique_ptr<RunStage> begin_stage(const Experiment& experiment, const std::string& name,
                                      comm::Communicator& comm) {
  std::unique_ptr<RunStage> stage;
  comm.agree(
      [&] {
        if (!comm.is_root()) return;
        stage = std::make_unique<RunStage>(experiment.run_dir(), name, comm.world_size());
      },
      name + ".start");
  return stage;
}

/// `experiment` is this rank's own: what it left out is settled on the way.
Outcome run_stages(Experiment experiment, bool fresh, comm::Communicator& comm) {
  Outcome outcome;
  StageClock clock;
  check_rank_count(experiment, comm);
  Inputs inputs = load_inputs(experiment, comm);
  check_saes(experiment, inputs);
  outcome.load_seconds = clock.lap();
  {
    // A fresh run gets its directory from the trainer, which first moves the old one aside.
    std::unique_ptr<RunStage> stage;
    if (!fresh) stage = begin_stage(experiment, "harvest", comm);
    outcome.harvest = harvest_stage(experiment, inputs, comm);
  }
  outcome.harvest_seconds = clock.lap();
  outcome.train = train_stage(experiment, fresh, comm);
  outcome.train_seconds = clock.lap();
  const std::unique_ptr<RunStage> stage = begin_stage(experiment, "evaluate", comm);
  outcome.evaluation = evaluate_stage(experiment, experiment.run_dir(), inputs, comm);
  outcome.evaluate_seconds = clock.lap();
  comm.agree(
      [&] {
        if (!stage) return;
        trainer::JsonLines(experiment.run_dir() / "timing.jsonl")
            .append(
                {Json::object({{"event", "stages"}, {"stage_seconds", seconds_json(outcome)}})});
        stage->finish();
        write_report(experiment.run_dir());
      },
      "run.report");
  return outcome;
}

void run_run(const Options& options) {
  start(options);
  const Experiment experiment = load_experiment(options.path, options.overrides);
  run_job(experiment, "run", [&](comm::Communicator& comm) {
    const Outcome outcome = run_stages(experiment, options.fresh, comm);
    if (!comm.is_root()) return;
    if (!options.json) {
      print_result(outcome_text(experiment, outcome));
      return;
    }
    print_result(Json::object({{"run_dir", experiment.run_dir().string()},
                               {"harvest", result_json(outcome.harvest)},
                               {"train", result_json(outcome.train)},
                               {"evaluation", outcome.evaluation},
                               {"stage_seconds", seconds_json(outcome)}})
                     .dump(2) +
                 "\n");
  });
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("run", "harvest (if the cache is not complete), train, evaluate, report");
  command->footer(
      "Reads the whole experiment; `thresher config reference` lists its keys. Each stage\n"
      "continues what it finds. --fresh starts the run directory over and keeps the cache.");
  const auto options = std::make_shared<Options>();
  add_experiment_options(*command, *options);
  add_continue_options(*command, *options);
  command->callback([&action, options] { action = [options] { run_run(*options); }; });
}

}  // namespace thresher::cli
