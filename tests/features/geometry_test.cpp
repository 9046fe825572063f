#include "features/geometry.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <numeric>

namespace thresher::features {
namespace {

TEST(Geometry, CosinesOfEveryPairAreCountedOnce) {
  // Lengths do not matter: (1, 0), (0, 2), (3, 3), (-4, 0).
  const at::Tensor rows = at::tensor(std::vector<float>{1, 0, 0, 2, 3, 3, -4, 0}).view({4, 2});
  const DirectionGeometry geometry = direction_geometry(rows);
  EXPECT_EQ(geometry.nearest, (std::vector<std::int64_t>{2, 2, 0, 1}));
  EXPECT_NEAR(geometry.nearest_cosine[0], 0.70710678, 1e-6);
  EXPECT_NEAR(geometry.nearest_cosine[3], 0, 1e-6);
  // Pairs: 0, 0.7071, -1, 0.7071, 0, -0.7071.
  EXPECT_NEAR(geometry.mean_absolute_cosine, (1 + 3 * 0.70710678) / 6, 1e-6);
  EXPECT_NEAR(geometry.mean_squared_cosine, 2.5 / 6, 1e-6);
  EXPECT_EQ(geometry.counts[50], 2);
  EXPECT_EQ(geometry.counts[85], 2);
  EXPECT_EQ(geometry.counts[0], 1);
  EXPECT_EQ(geometry.counts[14], 1);
}

TEST(Geometry, BlocksDoNotShow) {
  const std::int64_t n = 300;  // more than a block
  at::Tensor rows = at::empty({n, 5}, at::kFloat);
  for (std::int64_t i = 0; i < rows.numel(); ++i) {
    rows.data_ptr<float>()[i] = static_cast<float>((i * 7919 + 13) % 101) - 50;
  }
  const DirectionGeometry geometry = direction_geometry(rows);
  const at::Tensor units = rows / rows.norm(2, 1, true);
  at::Tensor cosines = at::matmul(units, units.t());
  cosines.fill_diagonal_(-2);
  const at::Tensor nearest = std::get<0>(cosines.max(1));
  for (std::int64_t i = 0; i < n; ++i) {
    EXPECT_NEAR(geometry.nearest_cosine[static_cast<std::size_t>(i)], nearest[i].item<float>(),
                1e-5);
  }
  EXPECT_EQ(std::accumulate(geometry.counts.begin(), geometry.counts.end(), std::int64_t{0}),
            n * (n - 1) / 2);
}

TEST(Geometry, AZeroRowIsNearToNothing) {
  const DirectionGeometry geometry =
      direction_geometry(at::tensor(std::vector<float>{0, 0, 1, 0, 0, 1}).view({3, 2}));
  EXPECT_EQ(geometry.nearest_cosine, (std::vector<float>{0, 0, 0}));
  EXPECT_EQ(geometry.mean_squared_cosine, 0);
}

}  // namespace
}  // namespace thresher::features
