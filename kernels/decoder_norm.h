#pragma once

#include <cstdint>

#include "kernels/topk.h"

namespace thresher::kernels {

/// norms[i] = Euclidean norm of row i of W [rows, cols], double accumulation in a fixed order.
void row_norms(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* W,
               float* norms);

/// Scales every row to unit norm. A zero row stays zero.
void normalise_rows(const Exec& exec, std::int64_t rows, std::int64_t cols, float* W);

/// The component of every row of `grad` along the (not necessarily unit) row of W, without writing
/// anything back: grad[r] - factors[r] * W[r] is perpendicular to W[r], and the sum over rows of
/// its squares is returned. factors[r] = dot(W[r], grad[r]) / dot(W[r], W[r]), 0 for a zero row;
/// the squares of a row are dot(grad[r], grad[r]) - dot(W[r], grad[r])^2 / dot(W[r], W[r]), at
/// least 0. Float64, in the order of sum_of_squares. `factors` [rows] lies on exec.device; on CUDA
/// the call waits for the stream.
double parallel_components(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* W,
                           const float* grad, double* factors);

/// Sum of squares in float64: every row in eight partial sums added as a tree, then the binary tree
/// over rows. The order is fixed and does not depend on threads. `cols` may be the whole tensor for
/// vectors (rows = 1). On CUDA the call waits for the stream.
double sum_of_squares(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* values);

/// The two again, the sum of squares left on exec.device in `*squares`; nothing waits. The order of
/// additions is fixed, but on CUDA is the device's own.
void parallel_components(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* W,
                         const float* grad, double* factors, double* squares);
void sum_of_squares(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* values,
                    double* squares);

}  // namespace thresher::kernels
