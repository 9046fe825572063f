#include "kernels/topk.h"

#include <fmt/format.h>

#include <limits>

#include "core/error.h"
#include "kernels/detail/backends.h"

namespace thresher::kernels {
namespace {

void check_shape(std::int64_t rows, std::int64_t cols, std::int64_t k) {
  if (k < 1 || k > cols) {
    throw InternalError(fmt::format("topk: k = {}, expected 1 <= k <= cols = {}", k, cols));
  }
  THRESHER_CHECK(rows >= 0, "topk: rows is negative");
  THRESHER_CHECK(cols <= std::numeric_limits<std::int32_t>::max(), "topk: a row exceeds 2^31 - 1");
}

}  // namespace

void topk(const Exec& exec, std::int64_t rows, std::int64_t cols, std::int64_t k,
          const float* pre_acts, float* values, std::int32_t* indices) {
  check_shape(rows, cols, k);
  if (rows == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::topk_cpu(rows, cols, k, pre_acts, values, indices);
    case Device::kCuda:
      return detail::topk_cuda(exec.stream, rows, cols, k, pre_acts, values, indices);
  }
}

void topk_masked(const Exec& exec, std::int64_t rows, std::int64_t cols, std::int64_t k,
                 const float* pre_acts, const std::uint8_t* mask, float* values,
                 std::int32_t* indices) {
  check_shape(rows, cols, k);
  if (rows == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::topk_masked_cpu(rows, cols, k, pre_acts, mask, values, indices);
    case Device::kCuda:
      return detail::topk_masked_cuda(exec.stream, rows, cols, k, pre_acts, mask, values, indices);
  }
}

namespace detail {

void check_open_columns(std::int64_t k, std::int64_t n_open, std::int64_t cols) {
  if (k <= n_open) return;
  throw InternalError(
      fmt::format("topk_masked: k = {}, but the mask leaves {} of {} columns", k, n_open, cols));
}

}  // namespace detail
}  // namespace thresher::kernels
