#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "cli/commands.h"
#include "cli/ranks.h"
#include "cli/run_status.h"
#include "cli/stages.h"
#include "core/log.h"
#include "core/progress.h"

namespace thresher::cli {
namespace {

/// --fresh: the old cache gets another name and a new one is begun.
void move_cache_aside(const std::filesystem::path& dir) {
  if (!std::filesystem::exists(dir)) return;
  const FolderLock lock(dir, "harvest --fresh");
  for (int n = 1;; ++n) {
    const std::filesystem::path old = fmt::format("{}.old-{}", dir.string(), n);
    if (!rename_no_replace(dir, old)) continue;
    log_info(fmt::format("{}: the old cache is kept as {}", dir.string(), old.string()));
    return;
  }
}

void run_harvest(const Options& options) {
  start(options);
  const Experiment experiment = load_experiment(options.path, options.overrides, Purpose::kHarvest);
  run_job(experiment, "harvest", [&](comm::Communicator& comm) {
    std::optional<RunStage> stage;
    comm.agree(
        [&] {
          if (!comm.is_root()) return;
          stage.emplace(experiment.run_dir(), "harvest", comm.world_size());
          if (options.fresh) move_cache_aside(experiment.cache.dir);
        },
        "start the harvest");
    Experiment own = experiment;  // ranks that are threads settle one each
    Inputs inputs = load_inputs(own, comm);
    const activation_cache::HarvestResult result = harvest_stage(own, inputs, comm);
    if (!comm.is_root()) return;
    stage->finish();
    if (options.json) {
      print_result(result_json(result).dump(2) + "\n");
    } else {
      print_result(fmt::format("{}: {} rows, {}\n", experiment.cache.dir, result.rows,
                               result.was_complete ? std::string("was complete already")
                                                   : fmt::format("{} tokens in {}", result.tokens,
                                                                 format_duration(result.seconds))));
    }
  });
}

}  // namespace

void add_harvest(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("harvest", "run text through the host model into an activation cache");
  command->footer(
      "Reads the sections run, corpus and host_model (or activations, your own matrices), cache "
      "and\n"
      "comm; `thresher config reference` lists their keys. Continues a cache that was begun; takes "
      "any number of ranks.");
  const auto options = std::make_shared<Options>();
  add_experiment_options(*command, *options);
  add_continue_options(*command, *options);
  command->callback([&action, options] { action = [options] { run_harvest(*options); }; });
}

}  // namespace thresher::cli
