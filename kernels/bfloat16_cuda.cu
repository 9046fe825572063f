#include "kernels/detail/backends.h"
#include "kernels/detail/bfloat16_device.h"
#include "kernels/detail/cuda_support.h"

namespace thresher::kernels::detail {
namespace {

constexpr int kThreads = 256;

__global__ void centre_elements(std::int64_t cols, const float* x, const float* centre,
                                float* centred, std::uint16_t* bfloat16) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t col = threadIdx.x; col < cols; col += blockDim.x) {
    const float value = x[row * cols + col] - (centre != nullptr ? centre[col] : 0.0f);
    if (centred != nullptr) centred[row * cols + col] = value;
    if (bfloat16 != nullptr) bfloat16[row * cols + col] = to_bfloat16(value);
  }
}

}  // namespace

void centre_rows_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* x,
                      const float* centre, float* centred, std::uint16_t* bfloat16) {
  centre_elements<<<grid_of(rows, 1), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      cols, x, centre, centred, bfloat16);
  check_launch("centre_rows");
}

}  // namespace thresher::kernels::detail
