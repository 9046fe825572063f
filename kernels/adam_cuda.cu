#include "kernels/detail/adam_element.h"
#include "kernels/detail/backends.h"
#include "kernels/detail/column_sums_device.h"
#include "kernels/detail/columns_device.h"
#include "kernels/detail/cuda_support.h"

namespace thresher::kernels::detail {
namespace {

constexpr int kThreads = 256;

/// kWidth neighbouring weights a thread.
template <int kWidth>
__global__ void adam_elements(AdamFactors factors, const UpdateControl* control, std::int64_t count,
                              const float* gradient, float* weights, float* m, float* v,
                              std::uint16_t* bfloat16) {
  if (!take_control(control, factors)) return;
  const std::int64_t i =
      (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kWidth;
  if (i >= count) return;
  const auto slope = load_columns<kWidth>(gradient + i);
  Columns<float, kWidth> weight = load_columns<kWidth>(weights + i);
  Columns<float, kWidth> first = load_columns<kWidth>(m + i), second = load_columns<kWidth>(v + i);
  Columns<std::uint16_t, kWidth> copy;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    adam_element(factors, slope.at[e], weight.at[e], first.at[e], second.at[e]);
    copy.at[e] = to_bfloat16(weight.at[e]);
  }
  store_columns(weights + i, weight);
  store_columns(m + i, first);
  store_columns(v + i, second);
  if (bfloat16 != nullptr) store_columns(bfloat16 + i, copy);
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
  const int width =
      columns_width(count, addresses_of(gradient, weights, m, v) | 2 * addresses_of(bfloat16));
  const auto kernel = width == 4 ? adam_elements<4> : adam_elements<1>;
  kernel<<<grid_of(count, kThreads * width), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      adam_factors(step), control, count, gradient, weights, m, v, bfloat16);
  check_launch("adam");
}

void decide_update_cuda(void* stream, std::int64_t count, const double* squares, double limit,
                        UpdateControl* control) {
  decide<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(count, squares, limit, control);
  check_launch("decide_update");
}

}  // namespace thresher::kernels::detail
