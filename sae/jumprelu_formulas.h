#pragma once

#include <cmath>

namespace thresher::sae {

/// The formulas of JumpReLU for one pre-activation z of a latent with threshold theta >= 0 and
/// decoder norm `norm` (docs/variants.md). The rectangle K is 1 where |z - theta| < bandwidth / 2.
struct JumpReluFormulas {
  double n_tokens = 0;  // of the global batch
  double bandwidth = 0;
  /// gdm, target_l0: derivative of the penalty by the mean L0.
  double l0_slope = 0;
  /// anthropic
  bool is_anthropic = false;
  double sparsity = 0, tanh_scale = 0, pre_act = 0;

  bool in_window(float z, float theta) const {
    return std::abs(static_cast<double>(z) - static_cast<double>(theta)) < 0.5 * bandwidth;
  }
  static float activation(float z, float theta) { return z > theta ? z : 0.0f; }
  double penalty(float f, double norm) const {
    return std::tanh(tanh_scale * static_cast<double>(f) * norm);
  }
  /// Derivative of `penalty` by f * norm.
  double penalty_slope(float f, double norm) const {
    const double t = penalty(f, norm);
    return tanh_scale * (1 - t * t);
  }

  struct Gradient {
    double z = 0, theta = 0;
  };
  /// `df` is the gradient of the reconstruction error by f. The loss on silent latents is split
  /// into a part that all tokens have and one that those with z >= theta take back; the latter is
  /// here.
  Gradient gradient(float z, float theta, double norm, double df) const {
    const double rectangle = in_window(z, theta) ? 1 / bandwidth : 0;
    const double threshold = static_cast<double>(theta);
    if (!is_anthropic) {
      return {z > theta ? df : 0, -rectangle * (threshold * df + l0_slope / n_tokens)};
    }
    const float f = activation(z, theta);
    df += sparsity / n_tokens * norm * penalty_slope(f, norm);
    const double jump = rectangle * threshold * df;
    const double taken_back = z >= theta ? pre_act * norm / n_tokens : 0;
    return {(z > theta ? df : 0) + jump + taken_back, -jump - taken_back};
  }
};

}  // namespace thresher::sae
