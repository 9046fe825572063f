#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "cli/ranks.h"
#include "core/files.h"

namespace thresher::cli {

/// A stage of a job other than training (which keeps RUN/status.json itself): holds RUN's lock
/// while it lives and has said "running" there. For rank 0 alone. ConfigError when another process
/// works in the run directory.
class RunStage {
 public:
  RunStage(const std::filesystem::path& run_dir, const std::string& stage, int ranks);
  /// Says "done" in RUN/status.json.
  void finish();

 private:
  std::filesystem::path run_dir_;
  std::string stage_;
  int ranks_;
  FolderLock lock_;
};

/// Says in RUN/status.json how this process ended, unless another process works there now or this
/// one's training has said it already. Creates the folder. Never throws: what went wrong first is
/// what counts.
void record_failure(const std::filesystem::path& run_dir, const std::string& stage,
                    const Failure& failure, int ranks) noexcept;

/// Changes RUN/status.json to say that the job failed, keeping how far it came; for a process that
/// another's death has just made speak, whoever holds the lock. Never throws.
void mark_failed(const std::filesystem::path& run_dir, const Failure& failure) noexcept;

}  // namespace thresher::cli
