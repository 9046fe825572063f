#include <algorithm>
#include <vector>

#include "kernels/detail/backends.h"
#include "kernels/detail/column_sums_device.h"
#include "kernels/detail/row_loops.h"
#include "kernels/parallel.h"

namespace thresher::kernels::detail {
namespace {

// About this many additions are worth a thread.
constexpr std::int64_t kGrain = 1 << 15;

}  // namespace

void column_sums_cpu(std::int64_t rows, std::int64_t cols, const float* coefficients,
                     const float* values, double* sums) {
  const RowLoops& loops = row_loops(cpu_isa());
  std::int64_t blocks = (rows + kSumRows - 1) / kSumRows;
  std::vector<double> parts(static_cast<std::size_t>(blocks * cols), 0.0);
  parallel_for(blocks, kGrain / (kSumRows * cols) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin * kSumRows; r < std::min(end * kSumRows, rows); ++r) {
      const double coefficient = coefficients != nullptr ? coefficients[r] : 1.0;
      if (coefficient == 0.0) continue;
      loops.add_row(coefficient, values + r * cols, cols, parts.data() + r / kSumRows * cols);
    }
  });
  // As tree_sum does: neighbours, and an odd one waits for the next round.
  while (blocks > 1) {
    const std::int64_t half = blocks / 2;
    for (std::int64_t b = 0; b < half; ++b) {
      const double* pair = parts.data() + 2 * b * cols;
      double* sum = parts.data() + b * cols;
      for (std::int64_t c = 0; c < cols; ++c) sum[c] = pair[c] + pair[cols + c];
    }
    if (blocks % 2 == 1) {
      std::copy_n(parts.data() + (blocks - 1) * cols, cols, parts.data() + half * cols);
    }
    blocks = half + blocks % 2;
  }
  std::copy_n(parts.data(), cols, sums);
}

}  // namespace thresher::kernels::detail
