#pragma once

#include <cstdint>

#include "kernels/detail/device_code.h"
#include "kernels/sparse_decode.h"

// The sums below take their terms in the order of the CPU kernels, so both give the same bits.

namespace thresher::kernels::detail {

/// Column `col` of one row's reconstruction.
THRESHER_DEVICE inline float decode_element(std::int64_t k, std::int64_t d, std::int64_t col,
                                            const std::int32_t* indices, const float* values,
                                            const float* W_dec, const float* bias) {
  float sum = bias != nullptr ? bias[col] : 0.0f;
  for (std::int64_t j = 0; j < k; ++j) {
    if (values[j] != 0.0f) sum += values[j] * W_dec[indices[j] * d + col];
  }
  return sum;
}

constexpr std::uint32_t kDotLanes = 16;  // kFloatLanes of detail/lanes.h

/// The dot products of `threads() / kDotLanes` slots from `first_slot` on, kDotLanes threads each.
template <class Block>
THRESHER_DEVICE void grad_values_block(Block& block, std::int64_t first_slot, std::int64_t n_slots,
                                       std::int64_t k, std::int64_t d, const std::int32_t* indices,
                                       const float* grad_recon, const float* W_dec, float* sums,
                                       float* grad_values) {
  block.each([&](std::uint32_t thread) {
    const std::int64_t slot = first_slot + thread / kDotLanes;
    float sum = 0.0f;
    if (slot < n_slots) {
      const float* grad = grad_recon + slot / k * d;
      const float* row = W_dec + indices[slot] * d;
      for (std::int64_t c = thread % kDotLanes; c < d; c += kDotLanes) sum += grad[c] * row[c];
    }
    sums[thread] = sum;
  });
  for (std::uint32_t half = kDotLanes / 2; half >= 1; half /= 2) {
    block.each([&](std::uint32_t thread) {
      if (thread % kDotLanes < half) sums[thread] += sums[thread + half];
    });
  }
  block.each([&](std::uint32_t thread) {
    const std::int64_t slot = first_slot + thread / kDotLanes;
    if (thread % kDotLanes == 0 && slot < n_slots) grad_values[slot] = sums[thread];
  });
}

/// Adds one number a lane along the binary tree over lanes; holds at most one number a level.
struct LaneSums {
  float waiting[32];
  int count = 0;

  THRESHER_DEVICE void add(std::int64_t lane, float sum) {
    for (; (lane & 1) != 0; lane >>= 1) sum = waiting[--count] + sum;
    waiting[count++] = sum;
  }
};

/// Column `col` of one latent's sum over lanes.
THRESHER_DEVICE inline float latent_element(std::int64_t latent, std::int64_t d, std::int64_t col,
                                            std::int64_t n_lanes, const LatentRows* lanes) {
  LaneSums tree;
  for (std::int64_t lane = 0; lane < n_lanes; ++lane) {
    const LatentRows& pairs = lanes[lane];
    float sum = 0.0f;
    for (std::int64_t p = pairs.offsets[latent]; p < pairs.offsets[latent + 1]; ++p) {
      sum += pairs.coefficients[pairs.pair_slots[p]] * pairs.rows[pairs.pair_rows[p] * d + col];
    }
    tree.add(lane, sum);
  }
  return tree.waiting[0];
}

THRESHER_DEVICE inline float latent_scalar(std::int64_t latent, std::int64_t n_lanes,
                                           const LatentRows* lanes) {
  LaneSums tree;
  for (std::int64_t lane = 0; lane < n_lanes; ++lane) {
    const LatentRows& pairs = lanes[lane];
    float sum = 0.0f;
    for (std::int64_t p = pairs.offsets[latent]; p < pairs.offsets[latent + 1]; ++p) {
      sum += pairs.coefficients[pairs.pair_slots[p]];
    }
    tree.add(lane, sum);
  }
  return tree.waiting[0];
}

}  // namespace thresher::kernels::detail
