#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"

namespace thresher::evaluation {

/// At most this many points of a curve are kept, whatever the length of a run.
inline constexpr std::size_t kMostCurvePoints = 400;

/// One figure over training tokens, thinned: neighbours are averaged, always the same power of two
/// of them.
class Curve {
 public:
  /// `value` may be NaN; it then ends what is averaged.
  void add(double tokens, double value);
  /// (mean tokens, mean value) of each bin, in the order in which they came.
  std::vector<std::pair<double, double>> points() const;
  /// Values that each point but the last one stands for.
  std::int64_t values_per_point() const { return per_bin_; }
  bool is_constant() const { return n_values_ > 0 && least_ == most_; }
  double last() const { return last_; }

 private:
  struct Bin {
    double tokens = 0, value = 0;
    std::int64_t count = 0;
  };
  std::vector<Bin> bins_;
  std::int64_t per_bin_ = 1, n_values_ = 0;
  double least_ = 0, most_ = 0, last_ = 0;
};

/// The curves of one SAE by figure, in the order in which the figures appear.
struct SaeCurves {
  std::string name;
  std::vector<std::pair<std::string, Curve>> figures;
  double tokens = 0;  // of the last line
  const Curve* find(const std::string& figure) const;
};

/// RUN/metrics.jsonl: one entry an SAE, every number of its lines but step and tokens. DataError
/// with the line for what is no line of metrics.
std::vector<SaeCurves> read_metric_curves(const std::filesystem::path& path);

}  // namespace thresher::evaluation
