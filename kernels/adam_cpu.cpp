#include <algorithm>

#include "kernels/detail/adam_element.h"
#include "kernels/detail/backends.h"
#include "kernels/detail/row_loops.h"
#include "kernels/parallel.h"
#include "kernels/tree_sum.h"

namespace thresher::kernels::detail {
namespace {

constexpr std::int64_t kGrain = 1 << 14;  // values worth a thread

}  // namespace

void adam_cpu(const AdamStep& step, std::int64_t count, const float* gradient, float* weights,
              float* m, float* v) {
  const RowLoops& loops = row_loops(cpu_isa());
  const AdamFactors factors = adam_factors(step);
  parallel_for(count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    loops.adam(factors, end - begin, gradient + begin, weights + begin, m + begin, v + begin);
  });
}

void adam_unit_rows_cpu(const AdamStep& step, std::int64_t rows, std::int64_t cols,
                        const float* gradient, const double* parallel, bool renormalises,
                        float* weights, float* m, float* v) {
  const RowLoops& loops = row_loops(cpu_isa());
  const AdamFactors factors = adam_factors(step);
  const std::int64_t grain = kGrain / std::max<std::int64_t>(cols, 1) + 1;
  parallel_for(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t at = r * cols;
      loops.adam_unit_row(factors, parallel[r], renormalises, cols, gradient + at, weights + at,
                          m + at, v + at);
    }
  });
}

void decide_update_cpu(std::int64_t count, const double* squares, double limit,
                       UpdateControl* control) {
  *control = update_control(tree_sum({squares, static_cast<std::size_t>(count)}), limit);
}

}  // namespace thresher::kernels::detail
