#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <span>

#include "cli/commands.h"
#include "cli/ranks.h"
#include "comm/rank_watch.h"
#include "core/config.h"
#include "core/error.h"
#include "core/stop_signal.h"

namespace thresher::cli {
namespace {

constexpr std::array kSubcommands = {
    add_run,       add_harvest,  add_cache,    add_train,   add_eval,   add_diagnose,
    add_encode,    add_generate, add_steer,    add_probe,   add_ablate, add_features,
    add_dashboard, add_serve,    add_geometry, add_compare, add_report, add_status,
    add_flight,    add_doctor,   add_config,   add_bench,   add_version};

constexpr const char* kFooter =
    "An experiment is one YAML file; `thresher config reference` lists every key.\n"
    "Several ranks: the same command under mpirun or srun.\n"
    "Exit codes: 0 done, 64 usage, 65 damaged input, 70 internal error or lost rank, 74 I/O "
    "error,\n"
    "75 stopped by a signal with everything saved (run again to continue), 78 configuration error.";

/// CLI11 would call an unknown subcommand a missing one; this names it and the nearest there is.
void check_subcommand(const CLI::App& app, std::span<char*> arguments, const std::string& path) {
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  if (commands.empty()) return;
  std::vector<std::string> names;
  for (const CLI::App* command : commands) names.push_back(command->get_name());
  const std::string expected = fmt::format("one of {}", fmt::join(names, ", "));
  if (arguments.empty()) throw UsageError(path + ": no subcommand", expected, path + " --help");
  const std::string word = arguments[0];
  if (word.empty() || word[0] == '-') return;
  const auto found = std::find(names.begin(), names.end(), word);
  if (found != names.end()) {
    check_subcommand(*commands[static_cast<std::size_t>(found - names.begin())],
                     arguments.subspan(1), path + " " + word);
    return;
  }
  const std::string nearest = nearest_name(word, names);
  throw UsageError(fmt::format("{}: unknown subcommand {}", path, word), expected,
                   nearest.empty() ? path + " --help" : fmt::format("did you mean {}?", nearest));
}

void run(int argc, char** argv) {
  CLI::App app("Trains sparse autoencoders on a transformer's residual stream.", "thresher");
  app.footer(kFooter);
  app.require_subcommand(1);
  Action action;
  for (const auto add : kSubcommands) add(app, action);
  check_subcommand(app, std::span(argv + 1, argv + argc), "thresher");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error);  // --help
      return;
    }
    std::string command = "thresher";
    for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
      at = at->get_subcommands().front();
      command += " " + at->get_name();
    }
    throw UsageError(fmt::format("{}: {}", command, error.what()), {}, command + " --help");
  }
  action();
}

}  // namespace
}  // namespace thresher::cli

int main(int argc, char** argv) {
  try {
    thresher::cli::set_command_line(argc, argv);
    thresher::install_stop_signals();
    thresher::comm::install_crash_report();
    thresher::cli::run(argc, argv);
    return 0;
  } catch (...) {
    const thresher::cli::Failure failure =
        thresher::cli::describe_failure(std::current_exception());
    thresher::cli::print_failure(failure);
    return static_cast<int>(failure.code);
  }
}
