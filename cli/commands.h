#pragma once

#include "cli/options.h"

namespace thresher::cli {

// One function a subcommand, each in its own cmd_*.cpp: adds the subcommand to `app` and sets
// `action` when it is the one that was called.
void add_run(CLI::App& app, Action& action);
void add_harvest(CLI::App& app, Action& action);
void add_cache(CLI::App& app, Action& action);
void add_train(CLI::App& app, Action& action);
void add_eval(CLI::App& app, Action& action);
void add_status(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);
void add_encode(CLI::App& app, Action& action);
void add_flight(CLI::App& app, Action& action);
void add_generate(CLI::App& app, Action& action);
void add_ablate(CLI::App& app, Action& action);
void add_steer(CLI::App& app, Action& action);
void add_features(CLI::App& app, Action& action);
void add_serve(CLI::App& app, Action& action);
void add_diagnose(CLI::App& app, Action& action);
void add_dashboard(CLI::App& app, Action& action);
void add_compare(CLI::App& app, Action& action);
void add_geometry(CLI::App& app, Action& action);
void add_probe(CLI::App& app, Action& action);
void add_report(CLI::App& app, Action& action);
void add_config(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_version(CLI::App& app, Action& action);

}  // namespace thresher::cli
