#include "cli/options.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "core/error.h"
#include "core/log.h"

namespace thresher::cli {

void add_output_options(CLI::App& command, Options& options) {
  command.add_flag("--json", options.json, "one JSON document on stdout instead of text");
  command.add_option("--log-level", options.log_level, "debug, info, warning or error")
      ->capture_default_str();
}

void add_set_option(CLI::App& command, Options& options) {
  command
      .add_option("--set", options.overrides,
                  "override one key, e.g. --set train.learning_rate=3e-4 or --set sae.0.k=16 "
                  "(repeatable)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

void add_experiment_options(CLI::App& command, Options& options) {
  command.add_option("EXPERIMENT.yaml", options.path, "the experiment file")->required();
  add_set_option(command, options);
  add_output_options(command, options);
}

void add_continue_options(CLI::App& command, Options& options) {
  CLI::Option* fresh =
      command.add_flag("--fresh", options.fresh,
                       "start over in a new directory; the old one is kept under another name");
  command.add_flag("--resume", options.resume, "continue what is there; this is the default")
      ->excludes(fresh);
}

namespace {

std::string& remembered_command_line() {
  static std::string text;
  return text;
}

std::string shell_quoted(const std::string& word) {
  const bool is_plain = !word.empty() && word.find_first_not_of(
                                             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                             "0123456789_-./=:,+@%") == std::string::npos;
  if (is_plain) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

void set_command_line(int argc, char** argv) {
  std::string text;
  for (int i = 0; i < argc; ++i) text += (i > 0 ? " " : "") + shell_quoted(argv[i]);
  remembered_command_line() = text;
}

std::string command_line() { return remembered_command_line(); }

void start(const Options& options) { set_log_level(parse_log_level(options.log_level)); }

void print_result(const std::string& text) {
  const bool is_written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (!is_written || std::fflush(stdout) != 0) {
    throw IoError("cannot write the result to standard output");
  }
}

}  // namespace thresher::cli
