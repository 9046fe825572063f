#include "features/geometry.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace thresher::features {
namespace {

constexpr std::int64_t kBlockRows = 256;

}  // namespace

DirectionGeometry direction_geometry(const at::Tensor& directions) {
  const std::int64_t n = directions.size(0);
  THRESHER_CHECK(n >= 2, "pairs of directions");
  const at::Tensor units =
      (directions / directions.norm(2, 1, /*keepdim=*/true).clamp_min(1e-30)).contiguous();
  DirectionGeometry out;
  out.n = n;
  out.width = directions.size(1);
  out.counts.assign(static_cast<std::size_t>(kCosineBars), 0);
  double absolute = 0, squared = 0;
  for (std::int64_t first = 0; first < n; first += kBlockRows) {
    const std::int64_t size = std::min(kBlockRows, n - first);
    const at::Tensor block = at::matmul(units.narrow(0, first, size), units.t()).contiguous();
    const float* cosines = block.const_data_ptr<float>();
    for (std::int64_t row = 0; row < size; ++row, cosines += n) {
      const std::int64_t self = first + row;
      std::int64_t nearest = self == 0 ? 1 : 0;
      for (std::int64_t j = 0; j < n; ++j) {
        if (j == self) continue;
        if (cosines[j] > cosines[nearest]) nearest = j;
        if (j < self) continue;
        const double cosine = cosines[j];
        absolute += std::abs(cosine);
        squared += cosine * cosine;
        const auto bar = static_cast<std::int64_t>((cosine + 1) / 2 * kCosineBars);
        ++out.counts[static_cast<std::size_t>(std::clamp<std::int64_t>(bar, 0, kCosineBars - 1))];
      }
      out.nearest.push_back(nearest);
      out.nearest_cosine.push_back(cosines[nearest]);
    }
  }
  const double pairs = 0.5 * static_cast<double>(n) * static_cast<double>(n - 1);
  out.mean_absolute_cosine = absolute / pairs;
  out.mean_squared_cosine = squared / pairs;
  return out;
}

}  // namespace thresher::features
