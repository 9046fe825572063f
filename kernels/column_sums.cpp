#include "kernels/column_sums.h"

#include <algorithm>

#include "core/error.h"
#include "kernels/detail/backends.h"

namespace thresher::kernels {

void column_sums(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* coefficients,
                 const float* values, double* sums) {
  THRESHER_CHECK(rows >= 0 && cols >= 0, "column_sums: a size is negative");
  std::fill_n(sums, cols, 0.0);
  if (rows == 0 || cols == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::column_sums_cpu(rows, cols, coefficients, values, sums);
    case Device::kCuda:
      return detail::column_sums_cuda(exec.stream, rows, cols, coefficients, values, sums);
  }
}

void column_sums_on_device(const Exec& exec, std::int64_t rows, std::int64_t cols,
                           const float* coefficients, const float* values, double* sums) {
  if (exec.device == Device::kCpu) {
    return column_sums(exec, rows, cols, coefficients, values, sums);
  }
  THRESHER_CHECK(rows >= 0 && cols >= 0, "column_sums: a size is negative");
  if (cols == 0) return;
  detail::column_sums_on_cuda(exec.stream, rows, cols, coefficients, values, sums);
}

}  // namespace thresher::kernels
