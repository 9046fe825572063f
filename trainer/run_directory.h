#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "trainer/tensorboard_log.h"

namespace thresher::trainer {

/// RUN/status.json: what a launcher or a person asks first. `state` is "running", "stopped" (run
/// again to continue), "failed" or "done".
struct RunStatus {
  std::string state;
  std::string stage = "train";
  std::optional<ExitCode> exit_code;  // absent while running
  std::string message;                // first line of the error; empty when all is well
  std::int64_t step = 0, steps = 0, tokens = 0;
  int ranks = 1;
};

/// Replaces RUN/status.json atomically; adds host, process id and time.
void write_status(const std::filesystem::path& run_dir, const RunStatus& status);

std::filesystem::path sae_folder(const std::filesystem::path& run_dir, const std::string& sae_name);

/// An append-only file of JSON lines.
class JsonLines {
 public:
  /// Opens for appending, creating the file. IoError on failure.
  explicit JsonLines(const std::filesystem::path& path);
  /// All lines of one call go out in one write.
  void append(const Json::Array& lines);
  /// Cuts the file to its first `bytes` bytes. DataError when it is shorter, or when they do not
  /// end with a line.
  void truncate(std::int64_t bytes);
  void sync();
  std::int64_t bytes() const { return bytes_; }

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
  std::int64_t bytes_ = 0;
};

/// Calls `take` with every complete line of a file of JSON lines. A last line without its end,
/// which a running job may be writing, is left out. DataError with the line's number for what is
/// not JSON and for a line of more than 1 MiB; `take` may throw DataError itself.
void for_each_json_line(
    const std::filesystem::path& path,
    const std::function<void(const Json& line, const std::string& where)>& take);

/// The folder of one run, locked against a second training while this object lives. Only rank 0 has
/// one.
///
///     RUN/config.resolved.yaml   the experiment with every default filled in
///     RUN/metrics.jsonl          a line for every logged step and SAE; only figures that do not
///                                depend on ranks or time
///     RUN/timing.jsonl           speed, ranks and hosts; differs between any two runs
///     RUN/tensorboard/NAME/      metrics.jsonl as TensorBoard reads it
///     RUN/status.json            the verdict in words
///     RUN/ckpt/                  docs/checkpoint-format.md
///     RUN/sae/NAME/              the finished SAEs in SAELens' layout
class RunDirectory {
 public:
  /// Creates or reopens `path`. With `fresh` an existing folder is first renamed to PATH.old-<n>,
  /// the lowest free n from 1; nothing is deleted. ConfigError if another process trains in it.
  RunDirectory(std::filesystem::path path, bool fresh);

  const std::filesystem::path& path() const { return path_; }
  void write_config(const Json& resolved);
  /// Writes TensorBoard's files too from now on, beginning with what metrics.jsonl holds.
  void open_tensorboard(const std::vector<std::string>& sae_names);
  /// Lines of metrics.jsonl, each with "sae", "step" and "tokens".
  void append_metrics(const Json::Array& lines);
  void sync_metrics();
  JsonLines& metrics() { return metrics_; }
  JsonLines& timing() { return timing_; }

 private:
  std::filesystem::path path_;
  FolderLock lock_;
  JsonLines metrics_, timing_;
  std::optional<TensorBoardLog> tensorboard_;
};

}  // namespace thresher::trainer
