#include "features/logistic.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace thresher::features {
namespace {

// Ten rows of two features, not separable. Expected weights: scipy.optimize.minimize (BFGS) of the
// same objective on the standardised features.
const std::vector<float> kValues = {0.5F, 1.2F, -1.0F, 0.3F, 2.0F, -0.7F, 1.5F, 0.1F,  -0.3F, -1.1F,
                                    0.9F, 2.2F, -2.0F, 0.4F, 0.2F, -0.2F, 1.1F, -1.6F, -0.8F, 0.6F};
const std::vector<std::uint8_t> kLabels = {1, 0, 1, 1, 0, 0, 0, 1, 1, 0};

at::Tensor values() { return at::tensor(kValues).view({10, 2}); }

TEST(Logistic, EqualsAnotherMinimiser) {
  const LinearProbe probe = fit_logistic(values(), kLabels);
  EXPECT_NEAR(probe.weights[0].item<double>(), 1.1816991, 1e-5);
  EXPECT_NEAR(probe.weights[1].item<double>(), -0.4377783, 1e-5);
  EXPECT_NEAR(probe.bias, 0.0030065, 1e-5);
  const LinearProbe loose = fit_logistic(values(), kLabels, 100);
  EXPECT_NEAR(loose.weights[0].item<double>(), 5.0244996, 1e-3);
}

TEST(Logistic, SeparableRowsAndConstantFeaturesAreFitted) {
  at::Tensor x = at::zeros({40, 3});
  std::vector<std::uint8_t> labels;
  for (int i = 0; i < 40; ++i) {
    labels.push_back(i % 2 == 0 ? 1 : 0);
    x[i][0] = i % 2 == 0 ? 1e6 : -1e6;
    x[i][1] = 7;  // says nothing
    x[i][2] = i;
  }
  const LinearProbe probe = fit_logistic(x, labels);
  EXPECT_EQ(probe.weights[1].item<double>(), 0);
  const std::vector<double> scores = probe.scores(x);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(scores[static_cast<std::size_t>(i)] > 0, i % 2 == 0) << i;
}

TEST(Logistic, MoreFeaturesThanRowsHaveOneAnswer) {
  const at::Tensor x = at::cat({values(), values(), values(), values(), values(), values()}, 1);
  const LinearProbe wide = fit_logistic(x, kLabels), narrow = fit_logistic(values(), kLabels, 6);
  // Six copies share the weight, which costs a sixth of the penalty.
  EXPECT_NEAR(wide.weights[0].item<double>() * 6, narrow.weights[0].item<double>(), 1e-5);
}

TEST(Logistic, DifferenceOfMeansPointsFromOneMeanToTheOther) {
  const LinearProbe probe = fit_difference_of_means(values(), kLabels);
  EXPECT_NEAR(probe.weights[0].item<double>(), 1.7000000, 1e-6);
  EXPECT_NEAR(probe.weights[1].item<double>(), -0.7200000, 1e-6);
}

}  // namespace
}  // namespace thresher::features
