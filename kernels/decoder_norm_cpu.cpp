#include <algorithm>
#include <cmath>

#include "kernels/detail/backends.h"
#include "kernels/detail/lanes.h"
#include "kernels/parallel.h"

namespace thresher::kernels::detail {
namespace {

std::int64_t grain_rows(std::int64_t cols) {
  return std::max<std::int64_t>(1, (1 << 15) / std::max<std::int64_t>(1, cols));
}

THRESHER_HOT void squares(std::int64_t begin, std::int64_t end, std::int64_t cols,
                          const float* values, double* sums) {
  for (std::int64_t r = begin; r < end; ++r) {
    sums[r] = dot_double(values + r * cols, values + r * cols, cols);
  }
}

THRESHER_HOT void norms_of(std::int64_t begin, std::int64_t end, std::int64_t cols, const float* W,
                           float* norms) {
  for (std::int64_t r = begin; r < end; ++r) {
    norms[r] = static_cast<float>(std::sqrt(dot_double(W + r * cols, W + r * cols, cols)));
  }
}

THRESHER_HOT void normalise(std::int64_t begin, std::int64_t end, std::int64_t cols, float* W) {
  for (std::int64_t r = begin; r < end; ++r) {
    float* row = W + r * cols;
    const double sum = dot_double(row, row, cols);
    if (sum == 0.0) continue;
    const double scale = 1.0 / std::sqrt(sum);
    for (std::int64_t c = 0; c < cols; ++c) row[c] = static_cast<float>(row[c] * scale);
  }
}

THRESHER_HOT void project(std::int64_t begin, std::int64_t end, std::int64_t cols, const float* W,
                          float* grad) {
  for (std::int64_t r = begin; r < end; ++r) {
    const float* weights = W + r * cols;
    float* row = grad + r * cols;
    const double sum = dot_double(weights, weights, cols);
    if (sum == 0.0) continue;
    const double scale = dot_double(weights, row, cols) / sum;
    for (std::int64_t c = 0; c < cols; ++c) {
      row[c] = static_cast<float>(row[c] - scale * static_cast<double>(weights[c]));
    }
  }
}

}  // namespace

void row_norms_cpu(std::int64_t rows, std::int64_t cols, const float* W, float* norms) {
  parallel_for(rows, grain_rows(cols),
               [&](std::int64_t begin, std::int64_t end) { norms_of(begin, end, cols, W, norms); });
}

void normalise_rows_cpu(std::int64_t rows, std::int64_t cols, float* W) {
  parallel_for(rows, grain_rows(cols),
               [&](std::int64_t begin, std::int64_t end) { normalise(begin, end, cols, W); });
}

void remove_parallel_component_cpu(std::int64_t rows, std::int64_t cols, const float* W,
                                   float* grad) {
  parallel_for(rows, grain_rows(cols),
               [&](std::int64_t begin, std::int64_t end) { project(begin, end, cols, W, grad); });
}

void row_squares_cpu(std::int64_t rows, std::int64_t cols, const float* values, double* sums) {
  parallel_for(rows, grain_rows(cols), [&](std::int64_t begin, std::int64_t end) {
    squares(begin, end, cols, values, sums);
  });
}

}  // namespace thresher::kernels::detail
