#pragma once

#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace thresher::cli {

/// What most subcommands take.
struct Options {
  std::string path;                    // EXPERIMENT.yaml, a run directory or a cache
  std::vector<std::string> overrides;  // --set
  std::string log_level = "info";
  bool json = false;
  bool fresh = false;
  bool resume = false;  // the default, for those who like to say it
};

/// The chosen subcommand's work; main runs it once the whole command line is known to be right.
using Action = std::function<void()>;

/// --log-level and --json.
void add_output_options(CLI::App& command, Options& options);
/// --set KEY=VALUE, repeatable.
void add_set_option(CLI::App& command, Options& options);
/// EXPERIMENT.yaml, --set and the output options.
void add_experiment_options(CLI::App& command, Options& options);
/// --fresh and --resume.
void add_continue_options(CLI::App& command, Options& options);

/// Remembers how the program was called; main does it first.
void set_command_line(int argc, char** argv);
/// The whole command as a shell would take it.
std::string command_line();

/// Applies --log-level. Call first in every action.
void start(const Options& options);
/// One JSON document, or text, to stdout.
void print_result(const std::string& text);

}  // namespace thresher::cli
