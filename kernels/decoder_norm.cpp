#include "kernels/decoder_norm.h"

#include <vector>

#include "core/error.h"
#include "kernels/detail/backends.h"
#include "kernels/tree_sum.h"

namespace thresher::kernels {
namespace {

void check_shape(std::int64_t rows, std::int64_t cols) {
  THRESHER_CHECK(rows >= 0 && cols >= 0, "decoder_norm: a size is negative");
}

}  // namespace

void row_norms(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* W,
               float* norms) {
  check_shape(rows, cols);
  if (rows == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::row_norms_cpu(rows, cols, W, norms);
    case Device::kCuda:
      return detail::row_norms_cuda(exec.stream, rows, cols, W, norms);
  }
}

void normalise_rows(const Exec& exec, std::int64_t rows, std::int64_t cols, float* W) {
  check_shape(rows, cols);
  if (rows == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::normalise_rows_cpu(rows, cols, W);
    case Device::kCuda:
      return detail::normalise_rows_cuda(exec.stream, rows, cols, W);
  }
}

double parallel_components(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* W,
                           const float* grad, double* factors) {
  check_shape(rows, cols);
  if (rows == 0) return 0.0;
  std::vector<double> squares(static_cast<std::size_t>(rows));
  switch (exec.device) {
    case Device::kCpu:
      detail::parallel_components_cpu(rows, cols, W, grad, factors, squares.data());
      break;
    case Device::kCuda:
      detail::parallel_components_cuda(exec.stream, rows, cols, W, grad, factors, squares.data());
      break;
  }
  return tree_sum(squares);
}

double sum_of_squares(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* values) {
  check_shape(rows, cols);
  if (rows == 0) return 0.0;
  std::vector<double> sums(static_cast<std::size_t>(rows));
  switch (exec.device) {
    case Device::kCpu:
      detail::row_squares_cpu(rows, cols, values, sums.data());
      break;
    case Device::kCuda:
      detail::row_squares_cuda(exec.stream, rows, cols, values, sums.data());
      break;
  }
  return tree_sum(sums);
}

void parallel_components(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* W,
                         const float* grad, double* factors, double* squares) {
  check_shape(rows, cols);
  switch (exec.device) {
    case Device::kCpu:
      *squares = parallel_components(exec, rows, cols, W, grad, factors);
      return;
    case Device::kCuda:
      return detail::parallel_components_on_cuda(exec.stream, rows, cols, W, grad, factors,
                                                 squares);
  }
}

void sum_of_squares(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* values,
                    double* squares) {
  check_shape(rows, cols);
  switch (exec.device) {
    case Device::kCpu:
      *squares = sum_of_squares(exec, rows, cols, values);
      return;
    case Device::kCuda:
      return detail::sum_of_squares_on_cuda(exec.stream, rows * cols, values, squares);
  }
}

}  // namespace thresher::kernels
