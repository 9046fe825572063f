#include "kernels/adam.h"

#include "core/error.h"
#include "kernels/detail/backends.h"

namespace thresher::kernels {

void adam(const Exec& exec, const AdamStep& step, std::int64_t count, const float* gradient,
          float* weights, float* m, float* v) {
  THRESHER_CHECK(count >= 0, "adam: count is negative");
  THRESHER_CHECK(step.step >= 1, "adam: steps are counted from 1");
  if (count == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::adam_cpu(step, count, gradient, weights, m, v);
    case Device::kCuda:
      return detail::adam_cuda(exec.stream, step, count, gradient, weights, m, v);
  }
}

void adam_unit_rows(const Exec& exec, const AdamStep& step, std::int64_t rows, std::int64_t cols,
                    const float* gradient, const double* factors, bool renormalises, float* weights,
                    float* m, float* v) {
  THRESHER_CHECK(rows >= 0 && cols >= 0, "adam_unit_rows: a size is negative");
  THRESHER_CHECK(step.step >= 1, "adam_unit_rows: steps are counted from 1");
  if (rows == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::adam_unit_rows_cpu(step, rows, cols, gradient, factors, renormalises, weights,
                                        m, v);
    case Device::kCuda:
      return detail::adam_unit_rows_cuda(exec.stream, step, rows, cols, gradient, factors,
                                         renormalises, weights, m, v);
  }
}

}  // namespace thresher::kernels
