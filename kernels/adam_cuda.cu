#include "kernels/detail/adam_element.h"
#include "kernels/detail/backends.h"
#include "kernels/detail/cuda_support.h"

namespace thresher::kernels::detail {
namespace {

constexpr int kThreads = 256;

__global__ void adam_elements(AdamFactors factors, std::int64_t count, const float* gradient,
                              float* weights, float* m, float* v) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) adam_element(factors, gradient[i], weights[i], m[i], v[i]);
}

}  // namespace

void adam_cuda(void* stream, const AdamStep& step, std::int64_t count, const float* gradient,
               float* weights, float* m, float* v) {
  adam_elements<<<grid_of(count, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      adam_factors(step), count, gradient, weights, m, v);
  check_launch("adam");
}

}  // namespace thresher::kernels::detail
