#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/stages.h"
#include "core/progress.h"

namespace thresher::cli {
namespace {

void run_train(const Options& options) {
  start(options);
  const Experiment experiment = load_experiment(options.path, options.overrides);
  run_job(experiment, "train", [&](comm::Communicator& comm) {
    Experiment own = experiment;  // ranks that are threads settle one each
    const trainer::TrainResult result = train_stage(own, options.fresh, comm);
    if (!comm.is_root()) return;
    if (options.json) {
      print_result(result_json(result).dump(2) + "\n");
      return;
    }
    const std::string outcome =
        result.was_complete
            ? "was complete already"
            : fmt::format("{} steps, {} tokens in {} ({} tokens/s)", result.steps, result.tokens,
                          format_duration(result.seconds), format_count(result.tokens_per_second));
    print_result(fmt::format("{}: {}\n", experiment.run_dir().string(), outcome));
  });
}

}  // namespace

void add_train(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("train", "train SAEs on a complete cache");
  command->footer(
      "Reads the sections run, cache, sae, train and comm; `thresher config reference` lists "
      "their\n"
      "keys. Continues from the newest checkpoint. The number of ranks must divide train.lanes.");
  const auto options = std::make_shared<Options>();
  add_experiment_options(*command, *options);
  add_continue_options(*command, *options);
  command->callback([&action, options] { action = [options] { run_train(*options); }; });
}

}  // namespace thresher::cli
