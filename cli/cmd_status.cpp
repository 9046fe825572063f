#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <memory>

#include "cli/commands.h"
#include "cli/experiment.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "core/system_error.h"
#include "core/visible_text.h"

namespace thresher::cli {
namespace {

constexpr std::uint64_t kMostBytes = 1 << 20;

struct StatusOptions : Options {
  bool code = false;
};

std::filesystem::path run_dir_of(const StatusOptions& options) {
  if (std::filesystem::is_directory(options.path)) return options.path;
  return load_experiment(options.path, options.overrides, Purpose::kHarvest).run_dir();
}

/// True if the process that wrote "running" was on this host and is gone: killed before it could
/// say more.
bool is_gone(const Json& status) {
  const Json* host = status.find("host");
  const Json* pid = status.find("pid");
  if (host == nullptr || pid == nullptr || host->as_string("host") != host_name()) return false;
  return kill(static_cast<pid_t>(pid->as_int("pid")), 0) != 0 && errno == ESRCH;
}

/// RUN/status.json; state "none" where no job has been yet and "lost" for a job killed at work.
Json read_status(const std::filesystem::path& run_dir) {
  const std::filesystem::path path = run_dir / "status.json";
  if (!std::filesystem::exists(path)) return Json::object({{"state", "none"}});
  Json status = Json::parse(read_text_file(path, kMostBytes), path.string());
  if (status.at("state").as_string("state") == "running" && is_gone(status)) {
    status["state"] = "lost";
    status["exit_code"] = static_cast<int>(ExitCode::kInternal);
  }
  return status;
}

std::string code_text(const Json& status) {
  const Json* code = status.find("exit_code");
  return code == nullptr ? status.at("state").as_string("state")
                         : std::to_string(code->as_int("exit_code"));
}

std::string status_text(const std::filesystem::path& run_dir, const Json& status) {
  std::string text = fmt::format("{}: {}", run_dir.string(), status.at("state").as_string("state"));
  if (const Json* stage = status.find("stage")) {
    text += fmt::format(", {}", stage->as_string("stage"));
  }
  if (const Json* steps = status.find("steps"); steps != nullptr && steps->as_int("steps") > 0) {
    text +=
        fmt::format(", step {} of {}", status.at("step").as_int("step"), steps->as_int("steps"));
  }
  if (const Json* time = status.find("time")) {
    text += fmt::format(", {} on {}, pid {}", time->as_string("time"),
                        status.at("host").as_string("host"), status.at("pid").as_int("pid"));
  }
  if (const Json* message = status.find("message")) {
    text += fmt::format("\n  {}", message->as_string("message"));
  }
  return harmless_text(text) + "\n";
}

void run_status(const StatusOptions& options) {
  start(options);
  const std::filesystem::path run_dir = run_dir_of(options);
  Json status = read_status(run_dir);
  if (options.code) {
    print_result(code_text(status) + "\n");
  } else if (options.json) {
    status["run_dir"] = run_dir.string();
    print_result(status.dump(2) + "\n");
  } else {
    print_result(status_text(run_dir, status));
  }
}

}  // namespace

void add_status(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("status", "how far a run is, or how it ended");
  command->footer(
      "Reads RUN/status.json: running, stopped (run again to continue), failed or done; `none` "
      "where\n"
      "no job has begun, `lost` where a job on this host was killed at work. --code prints what a\n"
      "launcher acts on: the exit code of the job that ended, or `running` or `none`.");
  const auto options = std::make_shared<StatusOptions>();
  command->add_option("SUBJECT", options->path, "EXPERIMENT.yaml, or a run directory")->required();
  command->add_flag("--code", options->code,
                    "print only the exit code of the job, 70 for a lost one");
  add_set_option(*command, *options);
  add_output_options(*command, *options);
  command->callback([&action, options] { action = [options] { run_status(*options); }; });
}

}  // namespace thresher::cli
