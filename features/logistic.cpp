#include "features/logistic.h"

#include <ATen/ATen.h>

#include <cmath>

#include "core/error.h"

namespace thresher::features {
namespace {

constexpr int kMaxNewtonSteps = 100, kMaxConjugateSteps = 200;
constexpr double kTolerance = 1e-6;

at::Tensor as_tensor(std::span<const std::uint8_t> values) {
  at::Tensor out = at::empty({static_cast<std::int64_t>(values.size())}, at::kDouble);
  std::copy(values.begin(), values.end(), out.data_ptr<double>());
  return out;
}

double scalar_product(const at::Tensor& a, const at::Tensor& b) { return at::dot(a, b).item<double>(); }

/// The objective of `fit_logistic` over w with the bias as its last entry, which is not penalised.
struct Objective {
  at::Tensor x;        // [N, n + 1], the last column 1
  at::Tensor y;        // [N], 0 or 1
  at::Tensor penalty;  // [n + 1]

  double value(const at::Tensor& w) const {
    const at::Tensor z = at::mv(x, w);
    // log(1 + e^z) - y z, without overflow
    const at::Tensor loss = at::relu(z) + at::log1p(at::exp(-z.abs())) - y * z;
    return loss.sum().item<double>() + 0.5 * scalar_product(penalty * w, w);
  }
  at::Tensor gradient(const at::Tensor& w, at::Tensor& curvature) const {
    const at::Tensor p = at::sigmoid(at::mv(x, w));
    curvature = p * (1 - p);
    return at::mv(x.t(), p - y) + penalty * w;
  }
};

/// Solves H step = -gradient by conjugate gradients, to a residual that shrinks with the gradient.
at::Tensor newton_step(const Objective& objective, const at::Tensor& gradient,
                       const at::Tensor& curvature) {
  at::Tensor step = at::zeros_like(gradient), residual = -gradient, direction = residual.clone();
  double norm = scalar_product(residual, residual);
  const double target = norm * std::min(0.01, norm);
  for (int i = 0; i < kMaxConjugateSteps && norm > target; ++i) {
    const at::Tensor product = at::mv(objective.x.t(), curvature * at::mv(objective.x, direction)) +
                               (objective.penalty + 1e-12) * direction;
    const double length = norm / scalar_product(direction, product);
    step += length * direction;
    residual -= length * product;
    const double next = scalar_product(residual, residual);
    direction = residual + next / norm * direction;
    norm = next;
  }
  return step;
}

}  // namespace

std::vector<double> LinearProbe::scores(const at::Tensor& x) const {
  const at::Tensor z = (at::mv((x.to(at::kDouble) - mean) / scale, weights) + bias).contiguous();
  return {z.const_data_ptr<double>(), z.const_data_ptr<double>() + z.numel()};
}

LinearProbe fit_logistic(const at::Tensor& x, std::span<const std::uint8_t> is_positive, double c) {
  const std::int64_t n = x.size(0), n_features = x.size(1);
  THRESHER_CHECK(n == static_cast<std::int64_t>(is_positive.size()), "one label a row");
  const at::Tensor values = x.to(at::kDouble);
  LinearProbe probe;
  probe.mean = values.mean(0);
  const at::Tensor deviation = values.std(0, /*unbiased=*/false);
  probe.scale = at::where(deviation > 1e-12, deviation, at::ones_like(deviation));
  Objective objective;
  objective.x = at::ones({n, n_features + 1}, at::kDouble);
  objective.x.narrow(1, 0, n_features).copy_((values - probe.mean) / probe.scale);
  objective.y = as_tensor(is_positive);
  objective.penalty = at::full({n_features + 1}, 1 / c, at::kDouble);
  objective.penalty[n_features] = 0;

  at::Tensor w = at::zeros({n_features + 1}, at::kDouble);
  double value = objective.value(w);
  for (int i = 0; i < kMaxNewtonSteps; ++i) {
    at::Tensor curvature;
    const at::Tensor gradient = objective.gradient(w, curvature);
    if (gradient.abs().max().item<double>() < kTolerance * static_cast<double>(n)) break;
    const at::Tensor step = newton_step(objective, gradient, curvature);
    const double slope = scalar_product(gradient, step);
    double length = 1;
    at::Tensor next = w + step;
    double next_value = objective.value(next);
    while (next_value > value + 1e-4 * length * slope && length > 1e-10) {
      length /= 2;
      next = w + length * step;
      next_value = objective.value(next);
    }
    if (!(next_value < value)) break;
    w = next;
    value = next_value;
  }
  probe.weights = w.narrow(0, 0, n_features).clone();
  probe.bias = w[n_features].item<double>();
  return probe;
}

LinearProbe fit_difference_of_means(const at::Tensor& x,
                                    std::span<const std::uint8_t> is_positive) {
  const at::Tensor values = x.to(at::kDouble), y = as_tensor(is_positive);
  const double n_positive = y.sum().item<double>();
  const double n_negative = static_cast<double>(is_positive.size()) - n_positive;
  LinearProbe probe;
  probe.mean = values.mean(0);
  probe.scale = at::ones_like(probe.mean);
  probe.weights = at::mv(values.t(), y) / n_positive - at::mv(values.t(), 1 - y) / n_negative;
  return probe;
}

}  // namespace thresher::features
