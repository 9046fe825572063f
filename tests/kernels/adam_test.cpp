#include "kernels/adam.h"

#include <cmath>

#include "kernels/reference.h"
#include "tests/kernels/backends.h"
#include "tests/kernels/kernel_test.h"

namespace thresher::kernels {
namespace {

class AdamTest : public KernelTest {};

TEST_P(AdamTest, FirstStepMovesByTheLearningRateAgainstTheGradient) {
  std::vector<float> weights{1, 1, 1}, m(3), v(3);
  backend().adam({0.5, 0.9, 0.999, 0.0, 1, 1.0}, {4, -0.01f, 1e-12f}, weights, m, v);
  EXPECT_NEAR(weights[0], 0.5f, 1e-6);
  EXPECT_NEAR(weights[1], 1.5f, 1e-6);
  EXPECT_NEAR(weights[2], 0.5f, 1e-6);
}

TEST_P(AdamTest, ScalesTheGradientFirst) {
  std::vector<float> weights{0}, m{0}, v{0};
  backend().adam({1e-3, 0.5, 0.75, 1e-8, 1, 0.25}, {8}, weights, m, v);
  EXPECT_EQ(m[0], 1.0f);
  EXPECT_EQ(v[0], 1.0f);
}

TEST_P(AdamTest, StaysPutWithoutGradientOrHistory) {
  std::vector<float> weights{3, -0.0f}, m(2), v(2);
  backend().adam({1e-3, 0.9, 0.999, 1e-8, 7, 1.0}, {0, 0}, weights, m, v);
  EXPECT_EQ(weights, (std::vector<float>{3, 0}));
}

TEST_P(AdamTest, FollowsTheReferenceOverManySteps) {
  Draws draws(41);
  const std::int64_t count = 333;
  auto weights = draws.reals(count);
  std::vector<float> m(weights.size()), v(weights.size());
  auto expected = weights;
  auto expected_m = m, expected_v = v;
  auto cpu_weights = weights;
  auto cpu_m = m, cpu_v = v;
  for (std::int64_t step = 1; step <= 200; ++step) {
    const auto gradient = draws.reals(count);
    const AdamStep at{1e-3, 0.9, 0.999, 1e-8, step, 0.7};
    backend().adam(at, gradient, weights, m, v);
    cpu_backend()->adam(at, gradient, cpu_weights, cpu_m, cpu_v);
    reference::adam(at, count, gradient.data(), expected.data(), expected_m.data(),
                    expected_v.data());
  }
  EXPECT_EQ(bits(weights), bits(cpu_weights));
  EXPECT_EQ(bits(v), bits(cpu_v));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    ASSERT_NEAR(weights[i], expected[i], 2e-6);
    ASSERT_NEAR(m[i], expected_m[i], 1e-6);
    ASSERT_NEAR(v[i], expected_v[i], 1e-6);
  }
}

TEST_P(AdamTest, UnitRowsTakeWhatIsPerpendicularAndAreScaledBack) {
  std::vector<float> weights{1, 0, 0, 0}, m(4), v(4);
  backend().adam_unit_rows({0.75, 0.5, 0.75, 0.0, 1, 1.0}, 2, {7, -4, 0, 0}, {7, 0}, true, weights,
                           m, v);
  EXPECT_EQ(m, (std::vector<float>{0, -2, 0, 0}));
  EXPECT_EQ(v, (std::vector<float>{0, 4, 0, 0}));
  EXPECT_FALSE(std::isfinite(weights[0])) << "0 / 0: epsilon is what keeps such a weight in place";
  weights = {1, 0, 0, 0}, m.assign(4, 0.0f), v = m;
  backend().adam_unit_rows({0.75, 0.5, 0.75, 1e-8, 1, 1.0}, 2, {7, -4, 0, 0}, {7, 0}, true, weights,
                           m, v);
  EXPECT_FLOAT_EQ(weights[0], 0.8f);
  EXPECT_FLOAT_EQ(weights[1], 0.6f);
  EXPECT_EQ(weights[2], 0.0f) << "a zero row stays zero";
}

TEST_P(AdamTest, OneWalkOverUnitRowsGivesTheBitsOfItsParts) {
  Draws draws(42);
  for (int round = 0; round < 200; ++round) {
    const std::int64_t rows = draws.size(0, 20), cols = draws.size(1, 130);
    const auto W = draws.reals(rows * cols), gradient = draws.reals(rows * cols);
    const auto old_m = draws.reals(rows * cols);
    const std::vector<float> old_v(W.size(), 0.5f);
    const bool renormalises = draws.integer(0, 1) == 0;
    const AdamStep step{1e-2, 0.9, 0.999, 1e-8, 3, 0.7};
    const auto factors = backend().parallel_components(rows, cols, W, gradient).factors;
    auto perpendicular = gradient;
    for (std::size_t i = 0; i < W.size(); ++i) {
      const double factor = factors[i / static_cast<std::size_t>(cols)];
      perpendicular[i] = static_cast<float>(gradient[i] - factor * W[i]);
    }
    auto expected = W, expected_m = old_m, expected_v = old_v;
    cpu_backend()->adam(step, perpendicular, expected, expected_m, expected_v);
    if (renormalises) expected = cpu_backend()->normalise_rows(rows, cols, expected);
    auto weights = W, m = old_m, v = old_v;
    backend().adam_unit_rows(step, cols, gradient, factors, renormalises, weights, m, v);
    ASSERT_EQ(bits(weights), bits(expected));
    ASSERT_EQ(bits(m), bits(expected_m));
    ASSERT_EQ(bits(v), bits(expected_v));
  }
}

INSTANTIATE_TEST_SUITE_P(On, AdamTest, testing::ValuesIn(backends_under_test()), backend_name);

}  // namespace
}  // namespace thresher::kernels
