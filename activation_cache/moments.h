#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "activation_cache/activation_source.h"
#include "core/json.h"

namespace thresher::activation_cache {

/// Count, mean and sum of squared deviations per dimension, in float64. Sets of rows are combined
/// by Chan's formula; with a fixed order of additions the bits are fixed.
class Moments {
 public:
  explicit Moments(std::int64_t d_in = 0)
      : mean_(static_cast<std::size_t>(d_in)), m2_(static_cast<std::size_t>(d_in)) {}
  Moments(std::int64_t count, std::vector<double> mean, std::vector<double> m2)
      : count_(count), mean_(std::move(mean)), m2_(std::move(m2)) {}

  /// Adds rows [n, d_in] as one set (mean first, then deviations), merged into what is there.
  void add_rows(std::span<const float> rows);
  void merge(const Moments& other);

  std::int64_t count() const { return count_; }
  const std::vector<double>& mean() const { return mean_; }
  const std::vector<double>& m2() const { return m2_; }
  SourceStatistics statistics() const;

 private:
  std::int64_t count_ = 0;
  std::vector<double> mean_;
  std::vector<double> m2_;
};

/// Row norms at kNormQuantileLevels (nearest rank; the values are sorted in place). Zeros when
/// there are none.
std::vector<double> norm_quantiles(std::vector<double>& norms);

/// Little-endian float64 values as base64: exact, and short enough for a log of many units.
std::string encode_doubles(std::span<const double> values);
/// DataError naming `where` unless `text` holds exactly `count` values.
std::vector<double> decode_doubles(std::string_view text, std::size_t count,
                                   std::string_view where);

}  // namespace thresher::activation_cache
