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

INSTANTIATE_TEST_SUITE_P(On, AdamTest, testing::ValuesIn(backends_under_test()), backend_name);

}  // namespace
}  // namespace thresher::kernels
