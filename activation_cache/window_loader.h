#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "activation_cache/batch_layout.h"
#include "activation_cache/shard_reader.h"

namespace thresher::activation_cache {

struct LoaderStatistics {
  std::uint64_t buffer_bytes = 0;       // held now
  std::uint64_t peak_buffer_bytes = 0;  // most ever held
  std::uint64_t bytes_read = 0;
  // Rows of every window asked for, those read ahead too: unlike bytes_read a function of the calls
  // alone, not of the readers' speed.
  std::uint64_t bytes_requested = 0;
  std::int64_t windows_loaded = 0;
};

/// Loads shuffled windows of lanes ahead of their use, on a fixed number of threads. Per lane and
/// dataset at most two windows exist: the one in use and the next. One thread calls; the readers
/// are its own.
class WindowLoader {
 public:
  WindowLoader(std::shared_ptr<ShardReader> shards, std::shared_ptr<const BatchLayout> layout,
               std::int64_t first_lane, std::int64_t n_lanes, int n_threads);
  ~WindowLoader();

  /// Rows of the shuffled window as they stand in the shards, valid until the next call for this
  /// lane and dataset (an index into shard_datasets, of one with a row a kept position). The
  /// following window is then read in the background. Any order of windows is right; forward is
  /// fast. Rethrows a reader's error.
  std::span<const std::byte> window(std::int64_t window, std::int64_t lane, std::size_t dataset);
  LoaderStatistics statistics() const;

 private:
  enum class State { kQueued, kLoading, kReady, kFailed };
  struct Window {
    std::int64_t number = -1;
    std::int64_t lane = 0;
    std::size_t dataset = 0;
    State state = State::kQueued;
    bool is_unwanted = false;  // the reader gives up at the next block
    std::unique_ptr<std::byte[]> rows;
    std::uint64_t bytes = 0;
    std::exception_ptr error;
  };
  using Slot = std::shared_ptr<Window>;
  struct Lane {
    Slot current, next;
  };

  void read_in_background();
  void load(Window& window);
  std::uint64_t bytes_of(const Window& window) const;
  Slot request(std::int64_t number, std::int64_t lane, std::size_t dataset);
  void discard(Slot& slot, std::unique_lock<std::mutex>& lock);
  void select(Lane& lane, std::int64_t number, std::int64_t lane_number, std::size_t dataset,
              std::unique_lock<std::mutex>& lock);

  std::shared_ptr<ShardReader> shards_;
  std::shared_ptr<const BatchLayout> layout_;
  std::int64_t first_lane_, n_lanes_;
  std::vector<std::vector<Lane>> lanes_;  // [dataset][lane of this rank]; empty until it is used

  mutable std::mutex mutex_;  // guards everything below, and the windows' states
  std::condition_variable work_ready_, window_done_;
  std::deque<Slot> queue_;
  LoaderStatistics statistics_;
  bool is_stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace thresher::activation_cache
