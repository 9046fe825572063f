#include "kernels/detail/adam_element.h"
#include "kernels/detail/backends.h"
#include "kernels/detail/bfloat16_device.h"
#include "kernels/detail/column_sums_device.h"
#include "kernels/detail/cuda_support.h"

namespace thresher::kernels::detail {
namespace {

constexpr int kThreads = 256;

__global__ void adam_elements(AdamFactors factors, const UpdateControl* control, std::int64_t count,
                              const float* gradient, float* weights, float* m, float* v,
                              std::uint16_t* bfloat16) {
  if (!take_control(control, factors)) return;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  adam_element(factors, gradient[i], weights[i], m[i], v[i]);
  if (bfloat16 != nullptr) bfloat16[i] = to_bfloat16(weights[i]);
}

__global__ void decide(std::int64_t count, const double* squares, double limit,
                       UpdateControl* control) {
  *control = update_control(count == 0 ? 0.0 : column_tree_sum(count, 1, 0, squares), limit);
}

}  // namespace

void adam_cuda(void* stream, const AdamStep& step, std::int64_t count, const float* gradient,
               float* weights, float* m, float* v) {
  adam_controlled_cuda(stream, step, nullptr, count, gradient, weights, m, v, nullptr);
}

void adam_controlled_cuda(void* stream, const AdamStep& step, const UpdateControl* control,
                          std::int64_t count, const float* gradient, float* weights, float* m,
                          float* v, std::uint16_t* bfloat16) {
  adam_elements<<<grid_of(count, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      adam_factors(step), control, count, gradient, weights, m, v, bfloat16);
  check_launch("adam");
}

void decide_update_cuda(void* stream, std::int64_t count, const double* squares, double limit,
                        UpdateControl* control) {
  decide<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(count, squares, limit, control);
  check_launch("decide_update");
}

}  // namespace thresher::kernels::detail
