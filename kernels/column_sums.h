#pragma once

#include <cstdint>

#include "kernels/topk.h"

namespace thresher::kernels {

/// sums[c] = sum over r of coefficients[r] * values[r, c] in float64; null coefficients are 1, and
/// a row whose coefficient is 0 is not read. Blocks of 64 rows are added in order and the blocks
/// along a binary tree, so the bits do not depend on threads. `sums` [cols] is host memory: on CUDA
/// the call waits for the stream.
void column_sums(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* coefficients,
                 const float* values, double* sums);

/// The same with `sums` on exec.device; nothing waits.
void column_sums_on_device(const Exec& exec, std::int64_t rows, std::int64_t cols,
                           const float* coefficients, const float* values, double* sums);

}  // namespace thresher::kernels
