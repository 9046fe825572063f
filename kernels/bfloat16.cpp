#include "kernels/bfloat16.h"

#include <algorithm>

#include "core/error.h"
#include "kernels/detail/backends.h"
#include "kernels/detail/bfloat16_device.h"
#include "kernels/parallel.h"

namespace thresher::kernels {
namespace {

constexpr std::int64_t kGrain = 1 << 14;  // values worth a thread

}  // namespace

void centre_rows(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* x,
                 const float* centre, float* centred, std::uint16_t* bfloat16) {
  THRESHER_CHECK(rows >= 0 && cols >= 0, "centre_rows: a size is negative");
  if (rows == 0 || cols == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::centre_rows_cpu(rows, cols, x, centre, centred, bfloat16);
    case Device::kCuda:
      return detail::centre_rows_cuda(exec.stream, rows, cols, x, centre, centred, bfloat16);
  }
}

namespace detail {

void centre_rows_cpu(std::int64_t rows, std::int64_t cols, const float* x, const float* centre,
                     float* centred, std::uint16_t* bfloat16) {
  parallel_for(rows, kGrain / cols + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        const float value = x[r * cols + c] - (centre != nullptr ? centre[c] : 0.0f);
        if (centred != nullptr) centred[r * cols + c] = value;
        if (bfloat16 != nullptr) bfloat16[r * cols + c] = to_bfloat16(value);
      }
    }
  });
}

}  // namespace detail
}  // namespace thresher::kernels
