#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace thresher::features {

/// A linear score of feature vectors: scores = ((x - mean) / scale) weights + bias.
struct LinearProbe {
  at::Tensor mean, scale, weights;  // [n_features] float64
  double bias = 0;

  /// x [N, n_features]; one score a row.
  std::vector<double> scores(const at::Tensor& x) const;
};

/// Logistic regression on standardised features (a constant feature gets weight 0), minimising
///
///     sum over rows of log(1 + exp(-y (w x + b))) + |w|^2 / (2 c),    y = 1 or -1
///
/// as scikit-learn's LogisticRegression(C=c) does. Newton's method with conjugate gradients, in
/// float64, until the gradient's largest entry is below 1e-6 times the number of rows, at most 100
/// steps. x [N, n_features]; `is_positive` must have both values.
LinearProbe fit_logistic(const at::Tensor& x, std::span<const std::uint8_t> is_positive,
                         double c = 1);

/// The direction from the negatives' mean to the positives', on the features as they are.
LinearProbe fit_difference_of_means(const at::Tensor& x, std::span<const std::uint8_t> is_positive);

}  // namespace thresher::features
