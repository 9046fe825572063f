#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"

namespace thresher::activation_cache {

struct HookPointWidth {
  std::string hook_point;
  std::int64_t d_in = 0;
};

/// What is known about the activations of one hook point before training, over all training rows
/// (float64).
struct SourceStatistics {
  std::int64_t n_rows = 0;
  std::vector<double> mean;           // [d_in]
  double mean_squared_norm = 0;       // E|x|^2
  double mean_squared_deviation = 0;  // E|x - mean|^2
};

/// How batches are cut from a source; part of a run's identity.
struct BatchPlan {
  std::int64_t batch_tokens = 1024;  // over all ranks; a multiple of lanes
  std::int64_t lanes = 8;            // power of two
  std::int64_t shuffle_window_tokens =
      65536;  // a lane shuffles inside windows of about this many of its rows
  std::uint64_t seed = 0;
  std::int64_t lane_rows() const { return batch_tokens / lanes; }
};

/// Where training batches come from: a cache, a synthetic world, later a live host model. Batches
/// are a pure function of (plan, step): lane l of batch `step` is the same rows whoever asks, in
/// whatever order, so a position is one integer and resume needs no replay. Row values are float32.
/// Not thread-safe; one object a rank.
class ActivationSource {
 public:
  virtual ~ActivationSource() = default;
  virtual const std::vector<HookPointWidth>& hook_points() const = 0;
  /// Index of a hook point; ConfigError listing those there are.
  std::size_t hook_index(const std::string& hook_point) const;
  /// What the batches depend on besides the plan; saved in checkpoints, compared on resume.
  virtual Json identity() const = 0;
  virtual const SourceStatistics& statistics(std::size_t hook_index) const = 0;
  /// `n_rows` distinct rows chosen by `seed`, in a fixed order, for initialisation: out [n_rows,
  /// d_in].
  virtual void sample_rows(std::size_t hook_index, std::uint64_t seed, std::int64_t n_rows,
                           std::span<float> out) = 0;

  /// Tells which lanes this rank will read and from which step, so that readers can run ahead.
  virtual void start(const BatchPlan& plan, std::int64_t first_step, std::int64_t first_lane,
                     std::int64_t n_lanes) = 0;
  virtual std::int64_t steps_per_epoch()
      const = 0;  // after start; rows that fill no batch are dropped
  virtual std::int64_t n_dropped_rows_per_epoch() const = 0;  // and reported
  /// Rows of one lane of one batch: out [lane_rows, d_in].
  virtual void read(std::int64_t step, std::int64_t lane, std::size_t hook_index,
                    std::span<float> out) = 0;
  /// Bytes that this rank's reads have asked of the storage since `start`, those read ahead too; a
  /// function of the calls alone. 0 where rows come from no storage.
  virtual std::uint64_t bytes_requested() const { return 0; }
};

}  // namespace thresher::activation_cache
