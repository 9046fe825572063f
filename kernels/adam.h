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
/// row is scaled back to unit norm as normalise_rows does it.
void adam_unit_rows(const Exec& exec, const AdamStep& step, std::int64_t rows, std::int64_t cols,
                    const float* gradient, const double* factors, bool renormalises, float* weights,
                    float* m, float* v);

}  // namespace thresher::kernels
