#include "cli/run_status.h"

#include <unistd.h>

#include "core/json.h"
#include "core/log.h"
#include "core/system_error.h"
#include "trainer/run_directory.h"

namespace thresher::cli {
namespace {

std::filesystem::path made(const std::filesystem::path& folder) {
  make_folders(folder);
  return folder;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/// True if status.json already tells the end of this very process, or of another rank that was
/// stopped with it and knows the step.
bool has_told(const std::filesystem::path& run_dir, const Failure& failure) {
  const std::filesystem::path path = run_dir / "status.json";
  if (!std::filesystem::exists(path)) return false;
  const Json status = Json::parse(read_text_file(path, 1 << 20), path.string());
  const std::string& state = status.at("state").as_string("state");
  if (failure.code == ExitCode::kStopped && state == "stopped") return true;
  return state != "running" && state != "done" &&
         status.at("host").as_string("host") == host_name() &&
         status.at("pid").as_int("pid") == getpid();
}

}  // namespace

RunStage::RunStage(const std::filesystem::path& run_dir, const std::string& stage, int ranks)
    : run_dir_(run_dir), stage_(stage), ranks_(ranks), lock_(made(run_dir), stage) {
  trainer::RunStatus status;
  status.state = "running";
  status.stage = stage_;
  status.ranks = ranks_;
  trainer::write_status(run_dir_, status);
}

void RunStage::finish() {
  trainer::RunStatus status;
  status.state = "done";
  status.stage = stage_;
  status.exit_code = ExitCode::kDone;
  status.ranks = ranks_;
  trainer::write_status(run_dir_, status);
}

void mark_failed(const std::filesystem::path& run_dir, const Failure& failure) noexcept {
  try {
    const std::filesystem::path path = run_dir / "status.json";
    Json status = Json::parse(read_text_file(path, 1 << 20), path.string());
    status["state"] = "failed";
    status["exit_code"] = static_cast<int>(failure.code);
    status["message"] = first_line(failure.message);
    write_file_atomically(path, status.dump(2) + "\n");
  } catch (const std::exception& error) {
    log_debug(std::string("status.json was not written: ") + error.what());
  }
}

void record_failure(const std::filesystem::path& run_dir, const std::string& stage,
                    const Failure& failure, int ranks) noexcept {
  try {
    make_folders(run_dir);
    const FolderLock lock(run_dir, stage);
    if (has_told(run_dir, failure)) return;
    trainer::RunStatus status;
    status.state = failure.code == ExitCode::kStopped ? "stopped" : "failed";
    status.stage = stage;
    status.exit_code = failure.code;
    status.message = first_line(failure.message);
    status.ranks = ranks;
    trainer::write_status(run_dir, status);
  } catch (const std::exception& error) {
    log_debug(std::string("status.json was not written: ") + error.what());
  }
}

}  // namespace thresher::cli
