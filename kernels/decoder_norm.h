#pragma once

#include <cstdint>

#include "kernels/topk.h"

namespace thresher::kernels {

/// norms[i] = Euclidean norm of row i of W [rows, cols], double accumulation in a fixed order.
void row_norms(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* W,
               float* norms);

/// Scales every row to unit norm. A zero row stays zero.
void normalise_rows(const Exec& exec, std::int64_t rows, std::int64_t cols, float* W);

/// Removes from every row of `grad` its component along the (not necessarily unit) row of W.
void remove_parallel_component(const Exec& exec, std::int64_t rows, std::int64_t cols,
                               const float* W, float* grad);

/// Sum of squares in float64: every row in eight partial sums added as a tree, then the binary tree
/// over rows. The order is fixed and does not depend on threads. `cols` may be the whole tensor for
/// vectors (rows = 1). On CUDA the call waits for the stream.
double sum_of_squares(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* values);

}  // namespace thresher::kernels
