#pragma once

#include <cstdint>

#include "kernels/topk.h"

namespace thresher::kernels {

/// Kingma & Ba 2015, with bias correction by step count.
struct AdamStep {
  double learning_rate;
  double beta1;
  double beta2;
  double epsilon;
  std::int64_t step;      // 1 for the first update
  double gradient_scale;  // multiplies every gradient first (the clip factor)
};

/// Updates weights, first and second moments [count] in place. Element-wise, so bits do not depend
/// on threads.
void adam(const Exec& exec, const AdamStep& step, std::int64_t count, const float* gradient,
          float* weights, float* m, float* v);

/// The same for rows [rows, cols] of unit norm, in one walk: the gradient of row r is gradient[r] -
/// factors[r] * weights[r] (parallel_components), rounded to float32, and with `renormalises` the
/// row is scaled back to unit norm as normalise_rows does it (on CUDA the norm's float64 sum has an
/// order of its own).
void adam_unit_rows(const Exec& exec, const AdamStep& step, std::int64_t rows, std::int64_t cols,
                    const float* gradient, const double* factors, bool renormalises, float* weights,
                    float* m, float* v);

/// What a step decides from its gradients, on the device that computed them, so that no step waits
/// for the host.
struct UpdateControl {
  double gradient_norm;
  double gradient_scale;   // the clip factor
  std::int64_t is_finite;  // 0: the gradient norm is not, and nothing may be changed
};

/// From the sums of squares of all gradients, `squares` [count] (at most 2^20), with limit > 0: the
/// clip factor limit / norm where the norm exceeds it, else 1. The norm is the square root of
/// tree_sum(squares). Both pointers on exec.device.
void decide_update(const Exec& exec, std::int64_t count, const double* squares, double limit,
                   UpdateControl* control);

/// The two updates under `control` (on exec.device): its gradient_scale stands for step's, and
/// without is_finite nothing is written. `bfloat16`, if not null, gets the updated weights rounded
/// to nearest (kernels/bfloat16.h), same layout.
void adam(const Exec& exec, const AdamStep& step, const UpdateControl* control, std::int64_t count,
          const float* gradient, float* weights, float* m, float* v, std::uint16_t* bfloat16);
void adam_unit_rows(const Exec& exec, const AdamStep& step, const UpdateControl* control,
                    std::int64_t rows, std::int64_t cols, const float* gradient,
                    const double* factors, bool renormalises, float* weights, float* m, float* v,
                    std::uint16_t* bfloat16);

}  // namespace thresher::kernels
