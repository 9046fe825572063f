#include "kernels/detail/backends.h"
#include "kernels/detail/cuda_support.h"
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

__global__ void latent_rows(std::int64_t d, std::int64_t n_lanes, const LatentRows* lanes,
                            float* out) {
  const std::int64_t latent = blockIdx.x;
  for (std::int64_t col = threadIdx.x; col < d; col += blockDim.x) {
    out[latent * d + col] = latent_element(latent, d, col, n_lanes, lanes);
  }
}

__global__ void latent_scalars(std::int64_t n_latents, std::int64_t n_lanes,
                               const LatentRows* lanes, float* out) {
  const std::int64_t latent = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (latent < n_latents) out[latent] = latent_scalar(latent, n_lanes, lanes);
}

/// The table of lanes is host memory, what it points to is not.
void copy_lanes(const LatentRows* lanes, std::int64_t n_lanes, cudaStream_t stream,
                StreamBuffer<LatentRows>& to) {
  check_cuda(cudaMemcpyAsync(to.data(), lanes, n_lanes * sizeof(LatentRows), cudaMemcpyHostToDevice,
                             stream),
             "accumulate_latent_rows");
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

void accumulate_latent_rows_cuda(void* stream, std::int64_t n_latents, std::int64_t d,
                                 std::int64_t n_lanes, const LatentRows* lanes, float* out) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  StreamBuffer<LatentRows> table(n_lanes, cuda_stream, "accumulate_latent_rows");
  copy_lanes(lanes, n_lanes, cuda_stream, table);
  latent_rows<<<grid_of(n_latents, 1), kThreads, 0, cuda_stream>>>(d, n_lanes, table.data(), out);
  check_launch("accumulate_latent_rows");
}

void accumulate_latent_scalars_cuda(void* stream, std::int64_t n_latents, std::int64_t n_lanes,
                                    const LatentRows* lanes, float* out) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  StreamBuffer<LatentRows> table(n_lanes, cuda_stream, "accumulate_latent_scalars");
  copy_lanes(lanes, n_lanes, cuda_stream, table);
  latent_scalars<<<grid_of(n_latents, kThreads), kThreads, 0, cuda_stream>>>(n_latents, n_lanes,
                                                                             table.data(), out);
  check_launch("accumulate_latent_scalars");
}

}  // namespace thresher::kernels::detail
