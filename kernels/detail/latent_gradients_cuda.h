#pragma once

#include <cstdint>

#include "kernels/detail/cuda_support.h"
#include "kernels/detail/mixed_precision_device.h"

// For the *_cuda.cu files: sums by latent over the pairs of one lane.

namespace thresher::kernels::detail {

constexpr int kMostRowThreads = 512;

template <int kWidth, class Pairs>
__global__ void __launch_bounds__(kMostRowThreads)
    sum_heavy_parts(std::int64_t n_latents, std::int64_t d, Pairs pairs, HeavySums heavy) {
  heavy_part<kWidth>(threadIdx.x, blockDim.x, blockIdx.x, n_latents, d, pairs, heavy);
}

template <int kWidth, class Pairs>
__global__ void __launch_bounds__(kMostRowThreads)
    sum_latents(std::int64_t n_latents, std::int64_t d, Pairs pairs, HeavySums heavy, float* W_dec,
                float* W_enc, float* b_enc) {
  latent_gradients<kWidth>(threadIdx.x, blockDim.x, blockIdx.x, n_latents, d, pairs, heavy, W_dec,
                           W_enc, b_enc);
}

/// `row_addresses`: those of the pairs' rows, as columns_width wants them.
template <class Pairs>
void sum_by_latent_cuda(cudaStream_t stream, std::int64_t n_latents, std::int64_t d,
                        const Pairs& pairs, std::uintptr_t row_addresses, float* W_dec,
                        float* W_enc, float* b_enc) {
  constexpr const char* kName = "accumulate_gradients";
  StreamBuffer<float> rows(HeavySums::kCount * 2 * d, stream, kName);
  StreamBuffer<float> biases(HeavySums::kCount, stream, kName);
  const HeavySums heavy{rows.data(), biases.data()};
  const int width = columns_width(d, row_addresses | addresses_of(W_dec, W_enc));
  const int threads = row_threads(d, width, kMostRowThreads);
  const auto parts = width == 4 ? sum_heavy_parts<4, Pairs> : sum_heavy_parts<1, Pairs>;
  parts<<<grid_of(HeavySums::kCount, 1), threads, 0, stream>>>(n_latents, d, pairs, heavy);
  check_launch(kName);
  const auto latents = width == 4 ? sum_latents<4, Pairs> : sum_latents<1, Pairs>;
  latents<<<grid_of(n_latents, 1), threads, 0, stream>>>(n_latents, d, pairs, heavy, W_dec, W_enc,
                                                         b_enc);
  check_launch(kName);
}

}  // namespace thresher::kernels::detail
