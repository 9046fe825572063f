#include "activation_cache/synthetic_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace thresher::activation_cache {
namespace {

constexpr std::int64_t kRows = std::int64_t{1} << 40;
constexpr std::uint64_t kSampleRow = std::uint64_t{1} << 41;

void validate(const SyntheticWorld& world) {
  if (world.d_in < 1 || world.n_features < 1 || world.d_in > (1 << 20) ||
      world.n_features > (1 << 24)) {
    throw ConfigError(
        fmt::format("synthetic world: d_in = {}, n_features = {}", world.d_in, world.n_features),
        "both at least 1, at most 2^20 and 2^24");
  }
  if (!(world.mean_active > 0) || world.mean_active > static_cast<double>(world.n_features) / 2) {
    throw ConfigError(fmt::format("synthetic world: mean_active = {}", world.mean_active),
                      fmt::format("above 0, at most half of n_features = {}", world.n_features));
  }
  if (!(world.min_magnitude > 0) || !(world.max_magnitude >= world.min_magnitude) ||
      !std::isfinite(world.max_magnitude)) {
    throw ConfigError(fmt::format("synthetic world: magnitudes from {} to {}", world.min_magnitude,
                                  world.max_magnitude),
                      "0 < min_magnitude <= max_magnitude");
  }
  if (!(world.zipf_exponent >= 0) || world.zipf_exponent > 4) {
    throw ConfigError(fmt::format("synthetic world: zipf_exponent = {}", world.zipf_exponent),
                      "0 to 4");
  }
}

}  // namespace

SyntheticSource::SyntheticSource(const SyntheticWorld& world) : world_(world) {
  validate(world_);
  hook_points_ = {{world_.hook_point, world_.d_in}};
  row_key_ = RandomStream(world_.seed, "synthetic.rows").key();
  make_directions();
  make_probabilities();
  make_statistics();
}

void SyntheticSource::make_directions() {
  const RandomStream random(world_.seed, "synthetic.directions");
  directions_.resize(static_cast<std::size_t>(world_.n_features * world_.d_in));
  std::vector<double> row(static_cast<std::size_t>(world_.d_in));
  for (std::int64_t f = 0; f < world_.n_features; ++f) {
    double squares = 0;
    for (std::int64_t d = 0; d < world_.d_in; ++d) {
      row[d] = random.normal(static_cast<std::uint64_t>(f * world_.d_in + d));
      squares += row[d] * row[d];
    }
    const double norm = std::sqrt(squares);
    for (std::int64_t d = 0; d < world_.d_in; ++d) {
      directions_[f * world_.d_in + d] = static_cast<float>(row[d] / norm);
    }
  }
}

void SyntheticSource::make_probabilities() {
  double total = 0;
  for (std::int64_t f = 0; f < world_.n_features; ++f) {
    probabilities_.push_back(std::pow(static_cast<double>(f + 1), -world_.zipf_exponent));
    total += probabilities_.back();
  }
  for (double& p : probabilities_) p = std::min(0.5, p * world_.mean_active / total);
  // Probabilities never rise with the feature's number, so a block's first is its largest.
  for (std::int32_t first = 0; first < world_.n_features;) {
    std::int32_t end = first;
    while (end < world_.n_features && probabilities_[end] >= probabilities_[first] / 2) ++end;
    blocks_.push_back({first, end, probabilities_[first], std::log1p(-probabilities_[first])});
    first = end;
  }
}

void SyntheticSource::make_statistics() {
  const double a = world_.min_magnitude, b = world_.max_magnitude;
  const double first_moment = (a + b) / 2;
  const double second_moment = (a * a + a * b + b * b) / 3;
  statistics_.n_rows = kRows;
  statistics_.mean.assign(static_cast<std::size_t>(world_.d_in), 0);
  for (std::int64_t f = 0; f < world_.n_features; ++f) {
    const double p = probabilities_[f];
    double squares = 0;
    for (std::int64_t d = 0; d < world_.d_in; ++d) {
      const double direction = static_cast<double>(directions_[f * world_.d_in + d]);
      statistics_.mean[d] += p * first_moment * direction;
      squares += direction * direction;
    }
    // Features are independent, so their variances along their directions add.
    statistics_.mean_squared_deviation +=
        (p * second_moment - p * p * first_moment * first_moment) * squares;
  }
  statistics_.mean_squared_norm = statistics_.mean_squared_deviation;
  for (const double value : statistics_.mean) statistics_.mean_squared_norm += value * value;
}

Json SyntheticSource::identity() const {
  return Json::object({{"kind", "synthetic"},
                       {"d_in", world_.d_in},
                       {"n_features", world_.n_features},
                       {"mean_active", world_.mean_active},
                       {"zipf_exponent", world_.zipf_exponent},
                       {"min_magnitude", world_.min_magnitude},
                       {"max_magnitude", world_.max_magnitude},
                       {"seed", world_.seed},
                       {"hook_point", world_.hook_point}});
}

const SourceStatistics& SyntheticSource::statistics(std::size_t hook_index) const {
  THRESHER_CHECK(hook_index == 0, "a synthetic source has one hook point");
  return statistics_;
}

void SyntheticSource::active_features(std::uint64_t row, std::vector<ActiveFeature>& out) const {
  out.clear();
  const std::array<std::uint32_t, 2> key{static_cast<std::uint32_t>(row_key_),
                                         static_cast<std::uint32_t>(row_key_ >> 32)};
  std::uint32_t draw = 0;
  for (const Block& block : blocks_) {
    std::int64_t feature = block.first;
    while (true) {
      // One 128-bit draw is one candidate: the gap to it, whether it is kept, and its magnitude.
      const auto bits = philox4x32(
          {static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(row >> 32), draw++, 0}, key);
      const std::uint64_t wide =
          (static_cast<std::uint64_t>(bits[0]) << 21) ^ (static_cast<std::uint64_t>(bits[1]) >> 11);
      const double uniform = static_cast<double>(wide + 1) * 0x1p-53;  // in (0, 1]
      const double gap = std::floor(std::log(uniform) / block.log_miss);
      if (gap >= static_cast<double>(block.end - feature)) break;
      feature += static_cast<std::int64_t>(gap);
      // Geometric gaps would fire every feature with the block's cap; thinning gives each its own
      // probability.
      if (static_cast<double>(bits[2]) * 0x1p-32 * block.cap < probabilities_[feature]) {
        const double magnitude =
            world_.min_magnitude + (world_.max_magnitude - world_.min_magnitude) *
                                       (static_cast<double>(bits[3]) + 0.5) * 0x1p-32;
        out.push_back({static_cast<std::int32_t>(feature), static_cast<float>(magnitude)});
      }
      ++feature;
    }
  }
}

std::vector<ActiveFeature> SyntheticSource::features_of(std::uint64_t row) const {
  std::vector<ActiveFeature> features;
  active_features(row, features);
  return features;
}

void SyntheticSource::make_rows(std::uint64_t first_row, std::span<float> out) const {
  THRESHER_CHECK(out.size() % world_.d_in == 0, "out must hold whole rows");
  const std::size_t n = out.size() / world_.d_in;
  std::fill(out.begin(), out.end(), 0.0F);
  std::vector<ActiveFeature> features;
  for (std::size_t r = 0; r < n; ++r) {
    active_features(first_row + r, features);
    float* row = out.data() + r * world_.d_in;
    for (const ActiveFeature& active : features) {
      const float* direction = directions_.data() + active.feature * world_.d_in;
      for (std::int64_t d = 0; d < world_.d_in; ++d) row[d] += active.magnitude * direction[d];
    }
  }
}

void SyntheticSource::sample_rows(std::size_t hook_index, std::uint64_t seed, std::int64_t n_rows,
                                  std::span<float> out) {
  THRESHER_CHECK(hook_index == 0, "a synthetic source has one hook point");
  THRESHER_CHECK(static_cast<std::int64_t>(out.size()) == n_rows * world_.d_in,
                 "out must be [n_rows, d_in]");
  make_rows(kSampleRow + (seed % 1024) * (std::uint64_t{1} << 30), out);
}

void SyntheticSource::start(const BatchPlan& plan, std::int64_t, std::int64_t, std::int64_t) {
  THRESHER_CHECK(plan.batch_tokens >= plan.lanes && plan.batch_tokens % plan.lanes == 0,
                 "batch_tokens must be a multiple of lanes");
  plan_ = plan;
  is_started_ = true;
}

std::int64_t SyntheticSource::steps_per_epoch() const {
  THRESHER_CHECK(is_started_, "start comes first");
  return kRows / plan_.batch_tokens;
}

std::int64_t SyntheticSource::n_dropped_rows_per_epoch() const {
  THRESHER_CHECK(is_started_, "start comes first");
  return kRows % plan_.batch_tokens;
}

void SyntheticSource::read(std::int64_t step, std::int64_t lane, std::size_t hook_index,
                           std::span<float> out) {
  THRESHER_CHECK(is_started_, "start comes first");
  THRESHER_CHECK(hook_index == 0, "a synthetic source has one hook point");
  THRESHER_CHECK(static_cast<std::int64_t>(out.size()) == plan_.lane_rows() * world_.d_in,
                 "out must be [lane_rows, d_in]");
  if (step < 0 || step >= steps_per_epoch()) {
    throw ConfigError(fmt::format("synthetic source: step {} lies outside its {} steps", step,
                                  steps_per_epoch()));
  }
  make_rows(static_cast<std::uint64_t>(step * plan_.batch_tokens + lane * plan_.lane_rows()), out);
}

}  // namespace thresher::activation_cache
