#include <algorithm>
#include <cmath>

#include "kernels/detail/backends.h"
#include "kernels/detail/decoder_norm_device.h"
#include "kernels/detail/lanes.h"
#include "kernels/detail/row_loops.h"
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

}  // namespace

void row_norms_cpu(std::int64_t rows, std::int64_t cols, const float* W, float* norms) {
  parallel_for(rows, grain_rows(cols),
               [&](std::int64_t begin, std::int64_t end) { norms_of(begin, end, cols, W, norms); });
}

void normalise_rows_cpu(std::int64_t rows, std::int64_t cols, float* W) {
  parallel_for(rows, grain_rows(cols),
               [&](std::int64_t begin, std::int64_t end) { normalise(begin, end, cols, W); });
}

void parallel_components_cpu(std::int64_t rows, std::int64_t cols, const float* W,
                             const float* grad, double* factors, double* squares) {
  const RowLoops& loops = row_loops(cpu_isa());
  parallel_for(rows, grain_rows(cols), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const RowDots dots = loops.row_dots(W + r * cols, grad + r * cols, cols);
      factors[r] = parallel_factor(dots.aa, dots.ab);
      squares[r] = perpendicular_squares(dots.aa, dots.ab, dots.bb);
    }
  });
}

void row_squares_cpu(std::int64_t rows, std::int64_t cols, const float* values, double* sums) {
  parallel_for(rows, grain_rows(cols), [&](std::int64_t begin, std::int64_t end) {
    squares(begin, end, cols, values, sums);
  });
}

}  // namespace thresher::kernels::detail
