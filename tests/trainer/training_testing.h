#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "activation_cache/synthetic_source.h"
#include "comm/communicator.h"
#include "trainer/trainer.h"

namespace thresher::trainer {

/// A folder that is gone when the test ends.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::filesystem::path& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// 16 dimensions, 32 features, 2 active.
activation_cache::SyntheticWorld tiny_world();
std::unique_ptr<sae::SaeConfig> tiny_topk(const std::string& name = "topk");
std::unique_ptr<sae::SaeConfig> tiny_relu(const std::string& name = "relu");
/// `steps` steps of 64 tokens in 8 lanes, warm-up and decay included, a checkpoint every 10 steps;
/// both SAEs.
TrainJob tiny_job(const std::filesystem::path& run_dir, std::int64_t steps);
/// The same with everything that has a state or a schedule of its own: `annealed` (topk, k from 6
/// to 2, AuxK, EMA) and `bricken` (relu_l1 resampling dead latents every 5 steps, EMA, falling
/// penalty), cosine decay to a floor, overrides.
TrainJob rich_job(const std::filesystem::path& run_dir, std::int64_t steps);

/// Trains on `ranks` threads (1: the self communicator), every rank with its own source. Rethrows
/// the first error.
void train_on_threads(const TrainJob& job, int ranks = 1);
/// One rank whose products use `threads` threads, on a world wide enough for them to share work. In
/// a child process only.
void train_with_product_threads(const TrainJob& job, int threads);

/// What design 4.7 promises to be the same bytes: SAEs, metrics and the content of checkpoints, by
/// relative path.
std::map<std::string, std::string> promised_bytes(const std::filesystem::path& run_dir);
/// Names of the files that differ or are missing on one side; empty when all are equal.
std::string differing_files(const std::filesystem::path& a, const std::filesystem::path& b);

/// Runs `work` in a forked process. Its exit code is an Error's code, 0 without one, 1 for any
/// other exception. The parent must not have used LibTorch's threads.
class ChildProcess {
 public:
  explicit ChildProcess(const std::function<void()>& work);
  ~ChildProcess();
  void kill(int signal);
  /// The exit code, or 128 + the signal that ended it.
  int wait();
  bool is_running();

 private:
  int pid_;
  int status_ = -1;
};

/// The first line of the Error that `work` throws; "no error" without one.
std::string first_line_of(const std::function<void()>& work);

}  // namespace thresher::trainer
