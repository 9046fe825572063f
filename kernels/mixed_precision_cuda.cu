#include "kernels/detail/backends.h"
#include "kernels/detail/cuda_support.h"
#include "kernels/detail/latent_gradients_cuda.h"
#include "kernels/detail/mixed_precision_device.h"

namespace thresher::kernels::detail {
namespace {

template <int kWidth>
__global__ void __launch_bounds__(kMostRowThreads) mixed_residual_rows(ResidualTask task) {
  __shared__ float sums[kMostRowThreads];
  CudaBlock block;
  mixed_residual_block<kWidth>(block, task, blockIdx.x, sums);
}

}  // namespace

void mixed_residuals_cuda(void* stream, std::int64_t rows, std::int64_t d,
                          const std::int64_t* row_offsets, const std::int32_t* indices,
                          const float* values, const std::uint16_t* W_dec, const float* bias,
                          const float* x, float* residuals, std::uint16_t* rounded, float* dots) {
  const ResidualTask task{d,    row_offsets, indices,   values,  W_dec,
                          bias, x,           residuals, rounded, dots};
  const int width = columns_width(
      d, addresses_of(bias, x, residuals) | 2 * addresses_of(W_dec) | 2 * addresses_of(rounded));
  const auto kernel = width == 4 ? mixed_residual_rows<4> : mixed_residual_rows<1>;
  kernel<<<grid_of(rows, 1), row_threads(d, width, kMostRowThreads), 0,
           static_cast<cudaStream_t>(stream)>>>(task);
  check_launch("sparse_residuals");
}

void mixed_gradients_cuda(void* stream, std::int64_t n_latents, std::int64_t d,
                          const MixedPairs& pairs, float* W_dec, float* W_enc, float* b_enc) {
  sum_by_latent_cuda(static_cast<cudaStream_t>(stream), n_latents, d, pairs,
                     2 * addresses_of(pairs.residuals, pairs.inputs), W_dec, W_enc, b_enc);
}

}  // namespace thresher::kernels::detail
