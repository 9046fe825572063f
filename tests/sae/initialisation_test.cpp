#include "sae/initialisation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "sae/lane_sums.h"
#include "tests/sae/sae_testing.h"

namespace thresher::sae {
namespace {

at::Tensor points(std::vector<float> values, std::int64_t d) {
  return at::tensor(values, at::kFloat).reshape({-1, d}).contiguous();
}

TEST(GeometricMedianTest, IsTheFermatPointOfATriangle) {
  // Isosceles, base 6, height 9: the Fermat point lies sqrt(3) above the middle of the base.
  const auto median = geometric_median(points({-3, 0, 3, 0, 0, 9}, 2));
  EXPECT_NEAR(median[0], 0, 1e-5);
  EXPECT_NEAR(median[1], std::sqrt(3.0), 1e-5);
}

TEST(GeometricMedianTest, IsTheMiddlePointOnALine) {
  const auto median = geometric_median(points({0, 1, 2, 10, 1000}, 1));
  EXPECT_NEAR(median[0], 2, 1e-2);
}

TEST(GeometricMedianTest, StaysInTheCrowdBesideAnOutlier) {
  at::Tensor sample = testing::normal_values({101, 8}, 1);
  sample[100].fill_(1e6);
  const auto median = geometric_median(sample);
  const auto mean = mean_row(sample);
  for (std::size_t j = 0; j < 8; ++j) {
    EXPECT_LT(std::abs(median[j]), 0.5);
    EXPECT_GT(mean[j], 9000);
  }
}

TEST(GeometricMedianTest, OfEqualPointsIsThatPoint) {
  const auto median = geometric_median(points({2, 3, 2, 3, 2, 3}, 2));
  EXPECT_EQ(median, (std::vector<double>{2, 3}));
}

TEST(InitialisationTest, StartsTheDecoderBiasWhereAsked) {
  const at::Tensor sample = points({0, 0, 0, 4, 4, 1000}, 1);
  EXPECT_EQ(initial_decoder_bias("zero", sample).item<float>(), 0.0f);
  EXPECT_EQ(initial_decoder_bias("mean", sample).item<float>(), 168.0f);
  EXPECT_LT(initial_decoder_bias("geometric_median", sample).item<float>(), 5.0f);
}

TEST(InitialisationTest, DrawsARowsElementsByTheirGlobalIndex) {
  const RandomStream stream(3, "x");
  at::Tensor small = at::empty({2, 5}, at::kFloat);
  at::Tensor large = at::empty({7, 5}, at::kFloat);
  fill_random_directions(small, 0.1, stream);
  fill_random_directions(large, 0.1, stream);
  EXPECT_TRUE(at::equal(small, large.narrow(0, 0, 2)));
  EXPECT_NEAR(large.norm(2, 1).mean().item<double>(), 0.1, 1e-7);
}

TEST(LaneSumsTest, AddsLanesAlongTheBinaryTree) {
  // 1e16 + 1 is 1e16 in float64, so the order of additions shows.
  const double big = 1e16;
  EXPECT_EQ(lane_tree_sum({{big}, {1}, {1}, {-big}})[0], (big + 1) + (1 - big));
  EXPECT_EQ(lane_tree_sum({{1}, {1}, {big}, {-big}})[0], 2.0);
  EXPECT_EQ(lane_tree_sum({{3, 4}}), (std::vector<double>{3, 4}));
}

TEST(LaneSumsTest, SumsColumnsAndSquaresInDouble) {
  at::Tensor values = at::tensor({1e8f, 1.0f, 1.0f, 2.0f, -1e8f, 3.0f}, at::kFloat).reshape({3, 2});
  EXPECT_EQ(column_sums(values), (std::vector<double>{1, 6}));
  // 2 x 10^8 + 15 needs more bits than a float has.
  EXPECT_EQ(sum_of_squares(values.clamp(-1e4, 1e4)), 2e8 + 15);
  EXPECT_EQ(sum_of_squares(testing::normal_values({37, 3}, 1).zero_() + 2), 37 * 3 * 4.0);
}

}  // namespace
}  // namespace thresher::sae
