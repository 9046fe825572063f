#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "activation_cache/activation_source.h"

namespace thresher::activation_cache {

/// A world whose features are known: every row is the sum of a few feature directions.
struct SyntheticWorld {
  std::int64_t d_in = 64;
  std::int64_t n_features = 256;
  /// Expected number of active features a row; each fires independently of the others.
  double mean_active = 3;
  /// 0: every feature fires equally often. s > 0: the i-th (from 1) fires in proportion to i^-s
  /// (no oftener than in half of the rows).
  double zipf_exponent = 0;
  /// Magnitudes of active features are uniform in this range.
  double min_magnitude = 0.5;
  double max_magnitude = 1.5;
  std::uint64_t seed = 0;
  std::string hook_point = "synthetic";
};

/// One active feature of a row.
struct ActiveFeature {
  std::int32_t feature = 0;
  float magnitude = 0;
};

/// Rows of a `SyntheticWorld`, made when they are read. Row i is a pure function of (world, i), so
/// a batch needs no state; the stream is one epoch of 2^40 rows that never repeats. Lane l of batch
/// s holds the rows from s * batch_tokens + l * lane_rows on. Rows that training never sees (for
/// measuring) start at `held_out_row`.
class SyntheticSource : public ActivationSource {
 public:
  /// ConfigError when the world makes no sense (no features, an empty or negative magnitude range,
  /// ...).
  explicit SyntheticSource(const SyntheticWorld& world);

  const std::vector<HookPointWidth>& hook_points() const override { return hook_points_; }
  Json identity() const override;
  /// Exact expectations, not estimates.
  const SourceStatistics& statistics(std::size_t hook_index) const override;
  void sample_rows(std::size_t hook_index, std::uint64_t seed, std::int64_t n_rows,
                   std::span<float> out) override;
  void start(const BatchPlan& plan, std::int64_t first_step, std::int64_t first_lane,
             std::int64_t n_lanes) override;
  std::int64_t steps_per_epoch() const override;
  std::int64_t n_dropped_rows_per_epoch() const override;
  void read(std::int64_t step, std::int64_t lane, std::size_t hook_index,
            std::span<float> out) override;

  /// [n_features, d_in]: the true directions, of unit norm.
  std::span<const float> directions() const { return directions_; }
  /// How often each feature fires.
  const std::vector<double>& probabilities() const { return probabilities_; }
  /// The features of a row, in ascending order.
  std::vector<ActiveFeature> features_of(std::uint64_t row) const;
  /// Rows [first_row, first_row + n): out [n, d_in].
  void make_rows(std::uint64_t first_row, std::span<float> out) const;
  /// First of 2^40 rows that no batch and no sample contains.
  static constexpr std::uint64_t held_out_row = std::uint64_t{1} << 42;

 private:
  /// Neighbouring features whose probabilities are within a factor of two of each other.
  struct Block {
    std::int32_t first, end;
    double cap;       // the largest probability inside
    double log_miss;  // log(1 - cap)
  };

  void active_features(std::uint64_t row, std::vector<ActiveFeature>& out) const;
  void make_directions();
  void make_probabilities();
  void make_statistics();

  SyntheticWorld world_;
  std::vector<HookPointWidth> hook_points_;
  std::vector<float> directions_;
  std::vector<double> probabilities_;
  std::vector<Block> blocks_;
  SourceStatistics statistics_;
  std::uint64_t row_key_ = 0;
  BatchPlan plan_;
  bool is_started_ = false;
};

}  // namespace thresher::activation_cache
