#include "kernels/detail/backends.h"
#include "kernels/detail/cuda_support.h"
#include "kernels/detail/latent_gradients_cuda.h"
#include "kernels/detail/sparse_decode_device.h"

namespace thresher::kernels::detail {
namespace {

constexpr int kThreads = 256;

__global__ void decode_rows(std::int64_t d, const std::int64_t* row_offsets,
                            const std::int32_t* indices, const float* values, const float* W_dec,
                            const float* bias, float* recon) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t col = threadIdx.x; col < d; col += blockDim.x) {
    recon[row * d + col] = decode_element(row_offsets, row, d, col, indices, values, W_dec, bias);
  }
}

__global__ void gradients_of_values(std::int64_t d, const std::int64_t* row_offsets,
                                    const std::int32_t* indices, const float* grad_recon,
                                    const float* W_dec, float* grad_values) {
  __shared__ float sums[kThreads];
  CudaBlock block;
  grad_values_block(block, row_offsets, blockIdx.x, d, indices, grad_recon, W_dec, sums,
                    grad_values);
}

__global__ void residual_rows(std::int64_t d, const std::int64_t* row_offsets,
                              const std::int32_t* indices, const float* values, const float* W_dec,
                              const float* bias, const float* x, float* residuals, float* dots) {
  __shared__ float sums[kThreads];
  CudaBlock block;
  residual_block(block, row_offsets, blockIdx.x, d, indices, values, W_dec, bias, x, sums,
                 residuals, dots);
}

__global__ void gradient_rows(std::int64_t d, std::int64_t n_lanes, const LatentPairs* lanes,
                              float* W_dec, float* W_enc, float* b_enc) {
  const std::int64_t latent = blockIdx.x;
  for (std::int64_t col = threadIdx.x; col < d; col += blockDim.x) {
    const GradientElement sum = gradient_element(latent, d, col, n_lanes, lanes);
    if (W_dec != nullptr) W_dec[latent * d + col] = sum.W_dec;
    if (W_enc != nullptr) W_enc[latent * d + col] = sum.W_enc;
  }
  if (threadIdx.x == 0 && b_enc != nullptr) b_enc[latent] = bias_gradient(latent, n_lanes, lanes);
}

}  // namespace

void sparse_decode_cuda(void* stream, std::int64_t rows, std::int64_t d,
                        const std::int64_t* row_offsets, const std::int32_t* indices,
                        const float* values, const float* W_dec, const float* bias, float* recon) {
  decode_rows<<<grid_of(rows, 1), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      d, row_offsets, indices, values, W_dec, bias, recon);
  check_launch("sparse_decode");
}

void sparse_decode_grad_values_cuda(void* stream, std::int64_t rows, std::int64_t d,
                                    const std::int64_t* row_offsets, const std::int32_t* indices,
                                    const float* grad_recon, const float* W_dec,
                                    float* grad_values) {
  gradients_of_values<<<grid_of(rows, 1), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      d, row_offsets, indices, grad_recon, W_dec, grad_values);
  check_launch("sparse_decode_grad_values");
}

void sparse_residuals_cuda(void* stream, std::int64_t rows, std::int64_t d,
                           const std::int64_t* row_offsets, const std::int32_t* indices,
                           const float* values, const float* W_dec, const float* bias,
                           const float* x, float* residuals, float* dots) {
  residual_rows<<<grid_of(rows, 1), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      d, row_offsets, indices, values, W_dec, bias, x, residuals, dots);
  check_launch("sparse_residuals");
}

void accumulate_gradients_cuda(void* stream, std::int64_t n_latents, std::int64_t d,
                               std::int64_t n_lanes, const LatentPairs* lanes, float* W_dec,
                               float* W_enc, float* b_enc) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (n_lanes == 1) {
    const LatentPairs& pairs = lanes[0];
    return sum_by_latent_cuda(cuda_stream, n_latents, d, pairs,
                              addresses_of(pairs.residuals, pairs.inputs), W_dec, W_enc, b_enc);
  }
  StreamBuffer<LatentPairs> table(n_lanes, cuda_stream, "accumulate_gradients");
  check_cuda(cudaMemcpyAsync(table.data(), lanes, n_lanes * sizeof(LatentPairs),
                             cudaMemcpyHostToDevice, cuda_stream),
             "accumulate_gradients");
  gradient_rows<<<grid_of(n_latents, 1), kThreads, 0, cuda_stream>>>(d, n_lanes, table.data(),
                                                                     W_dec, W_enc, b_enc);
  check_launch("accumulate_gradients");
}

}  // namespace thresher::kernels::detail
