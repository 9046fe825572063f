#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <span>
#include <string>
#include <utility>

#include "trainer/checkpoint.h"

namespace thresher::trainer {

/// Writes checkpoints on a thread of its own while training goes on; what holds training up is the
/// copy of the weights and moments. One at a time. For rank 0 alone; used by one thread.
class BackgroundCheckpoints {
 public:
  /// Hashes and writes one checkpoint; called on the other thread.
  using Write = std::function<void(const CheckpointContent& content)>;
  explicit BackgroundCheckpoints(Write write) : write_(std::move(write)) {}
  /// Waits for the one under way; what went wrong with it is lost unless `finish` was called.
  ~BackgroundCheckpoints();
  BackgroundCheckpoints(const BackgroundCheckpoints&) = delete;
  BackgroundCheckpoints& operator=(const BackgroundCheckpoints&) = delete;

  /// Copies the SAEs and begins to write. None may be under way.
  void begin(const CheckpointState& state, const std::string& config_yaml,
             std::span<const SaeSlot> saes);
  bool is_writing() const;
  /// Whether the last one has ended with an error, which `finish` throws.
  bool has_failed() const { return has_failed_; }
  /// Waits for the one under way. Throws what went wrong with it, once.
  void finish();

 private:
  Write write_;
  CheckpointContent content_;  // belongs to the other thread while that writes
  std::future<void> done_;
  std::atomic<bool> has_failed_ = false;
};

}  // namespace thresher::trainer
