#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace thresher::features {

inline constexpr std::int64_t kCosineBars = 100;  // from -1 to 1

/// How directions lie to one another. Cosines of all pairs are counted, never kept.
struct DirectionGeometry {
  std::int64_t n = 0, width = 0;
  /// Of each direction, its largest cosine with another one, and which.
  std::vector<float> nearest_cosine;
  std::vector<std::int64_t> nearest;
  std::vector<std::int64_t> counts;  // [kCosineBars]: pairs i < j by their cosine
  double mean_absolute_cosine = 0;
  /// Mean over pairs of the squared cosine; 1 / width for directions that know nothing of each
  /// other.
  double mean_squared_cosine = 0;
};

/// `directions` [n, width] float32, n >= 2; they need not have unit norm. A zero row has cosine 0
/// with all. Computed in blocks; memory is that of the normalised copy and one block.
DirectionGeometry direction_geometry(const at::Tensor& directions);

}  // namespace thresher::features
