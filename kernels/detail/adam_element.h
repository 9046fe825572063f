#pragma once

#include <cmath>

#include "kernels/adam.h"
#include "kernels/detail/device_code.h"

namespace thresher::kernels::detail {

/// The factors of one step, in double on the host, rounded once.
struct AdamFactors {
  float gradient_scale;
  float beta1, one_minus_beta1;
  float beta2, one_minus_beta2;
  float step_size;        // learning rate / (1 - beta1^t)
  float root_correction;  // 1 / sqrt(1 - beta2^t)
  float epsilon;
};

inline AdamFactors adam_factors(const AdamStep& step) {
  const double t = static_cast<double>(step.step);
  AdamFactors factors;
  factors.gradient_scale = static_cast<float>(step.gradient_scale);
  factors.beta1 = static_cast<float>(step.beta1);
  factors.one_minus_beta1 = static_cast<float>(1.0 - step.beta1);
  factors.beta2 = static_cast<float>(step.beta2);
  factors.one_minus_beta2 = static_cast<float>(1.0 - step.beta2);
  factors.step_size = static_cast<float>(step.learning_rate / (1.0 - std::pow(step.beta1, t)));
  factors.root_correction = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(step.beta2, t)));
  factors.epsilon = static_cast<float>(step.epsilon);
  return factors;
}

/// One weight. Must not be contracted into fused multiply-adds: CPU and CUDA give the same bits.
/// Always inline, because files compiled for one instruction set use it.
THRESHER_DEVICE __attribute__((always_inline)) inline void adam_element(const AdamFactors& f,
                                                                        float gradient,
                                                                        float& weight, float& m,
                                                                        float& v) {
  const float g = gradient * f.gradient_scale;
  m = f.beta1 * m + f.one_minus_beta1 * g;
  v = f.beta2 * v + f.one_minus_beta2 * (g * g);
  weight -= f.step_size * (m / (sqrtf(v) * f.root_correction + f.epsilon));
}

/// False if nothing may be changed. Without a control the factors are complete.
THRESHER_DEVICE inline bool take_control(const UpdateControl* control, AdamFactors& factors) {
  if (control == nullptr) return true;
  factors.gradient_scale = static_cast<float>(control->gradient_scale);
  return control->is_finite != 0;
}

THRESHER_DEVICE inline UpdateControl update_control(double squares, double limit) {
  const double norm = sqrt(squares);
  const bool is_finite = norm - norm == 0.0;
  return {norm, limit > 0 && norm > limit ? limit / norm : 1.0, is_finite ? 1 : 0};
}

/// A gradient without its component along its weight's row, see parallel_components.
THRESHER_DEVICE __attribute__((always_inline)) inline float perpendicular_element(double factor,
                                                                                  float gradient,
                                                                                  float weight) {
  return static_cast<float>(static_cast<double>(gradient) - factor * static_cast<double>(weight));
}

}  // namespace thresher::kernels::detail
