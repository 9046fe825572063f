#pragma once

#include <vector>

#include "kernels/detail/mixed_precision_device.h"
#include "tests/kernels/backend.h"

namespace thresher::kernels {

/// The two launches of sum_by_latent_cuda, thread by thread.
template <int kWidth, class Pairs>
Gradients sums_by_latent_of_width(std::int64_t n_latents, std::int64_t d, const Pairs& pairs) {
  constexpr std::uint32_t kThreads = 32;
  using detail::HeavySums;
  std::vector<float> rows(static_cast<std::size_t>(HeavySums::kCount * 2 * d), -1.0f);
  std::vector<float> biases(HeavySums::kCount, -1.0f);
  const HeavySums heavy{rows.data(), biases.data()};
  Gradients out{std::vector<float>(static_cast<std::size_t>(n_latents * d), -1.0f), {}, {}};
  out.W_enc = out.W_dec;
  out.b_enc.assign(static_cast<std::size_t>(n_latents), -1.0f);
  for (std::int64_t index = 0; index < HeavySums::kCount; ++index) {
    for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
      detail::heavy_part<kWidth>(thread, kThreads, index, n_latents, d, pairs, heavy);
    }
  }
  for (std::int64_t latent = n_latents - 1; latent >= 0; --latent) {
    for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
      detail::latent_gradients<kWidth>(thread, kThreads, latent, n_latents, d, pairs, heavy,
                                       out.W_dec.data(), out.W_enc.data(), out.b_enc.data());
    }
  }
  return out;
}

template <class Pairs>
Gradients sums_by_latent(std::int64_t n_latents, std::int64_t d, const Pairs& pairs) {
  return d % 4 == 0 ? sums_by_latent_of_width<4>(n_latents, d, pairs)
                    : sums_by_latent_of_width<1>(n_latents, d, pairs);
}

}  // namespace thresher::kernels
