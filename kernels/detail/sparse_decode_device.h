#pragma once

#include <cstdint>

#include "kernels/detail/device_code.h"
#include "kernels/sparse_decode.h"

// The sums below take their terms in the order of the CPU kernels, so both give the same bits.

namespace thresher::kernels::detail {

/// Column `col` of one row's reconstruction.
THRESHER_DEVICE inline float decode_element(const std::int64_t* row_offsets, std::int64_t row,
                                            std::int64_t d, std::int64_t col,
                                            const std::int32_t* indices, const float* values,
                                            const float* W_dec, const float* bias) {
  float sum = bias != nullptr ? bias[col] : 0.0f;
  for (std::int64_t slot = row_offsets[row]; slot < row_offsets[row + 1]; ++slot) {
    if (values[slot] != 0.0f) sum += values[slot] * W_dec[indices[slot] * d + col];
  }
  return sum;
}

constexpr std::uint32_t kDotLanes = 16;  // kFloatLanes of detail/lanes.h

/// The dot products of `grad` [d] with the decoder rows of the slots from `first` on, one for every
/// kDotLanes threads, as far as `end`. With `values`: 0 where the value is 0.
template <class Block>
THRESHER_DEVICE void slot_dots_block(Block& block, std::int64_t first, std::int64_t end,
                                     std::int64_t d, const std::int32_t* indices,
                                     const float* values, const float* grad, const float* W_dec,
                                     float* sums, float* grad_values) {
  block.each([&](std::uint32_t thread) {
    const std::int64_t slot = first + thread / kDotLanes;
    float sum = 0.0f;
    if (slot < end && (values == nullptr || values[slot] != 0.0f)) {
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
    const std::int64_t slot = first + thread / kDotLanes;
    if (thread % kDotLanes == 0 && slot < end) grad_values[slot] = sums[thread];
  });
}

/// The dot products of one row's slots, `threads() / kDotLanes` at a time with kDotLanes threads
/// each.
template <class Block>
THRESHER_DEVICE void grad_values_block(Block& block, const std::int64_t* row_offsets,
                                       std::int64_t row, std::int64_t d,
                                       const std::int32_t* indices, const float* grad_recon,
                                       const float* W_dec, float* sums, float* grad_values) {
  const std::int64_t end = row_offsets[row + 1];
  for (std::int64_t first = row_offsets[row]; first < end; first += block.threads() / kDotLanes) {
    slot_dots_block(block, first, end, d, indices, nullptr, grad_recon + row * d, W_dec, sums,
                    grad_values);
  }
}

/// One row of sparse_residuals.
template <class Block>
THRESHER_DEVICE void residual_block(Block& block, const std::int64_t* row_offsets, std::int64_t row,
                                    std::int64_t d, const std::int32_t* indices,
                                    const float* values, const float* W_dec, const float* bias,
                                    const float* x, float* sums, float* residuals, float* dots) {
  float* residual = residuals + row * d;
  block.each([&](std::uint32_t thread) {
    for (std::int64_t c = thread; c < d; c += block.threads()) {
      residual[c] =
          x[row * d + c] - decode_element(row_offsets, row, d, c, indices, values, W_dec, bias);
    }
  });
  const std::int64_t end = row_offsets[row + 1];
  for (std::int64_t first = row_offsets[row]; first < end; first += block.threads() / kDotLanes) {
    slot_dots_block(block, first, end, d, indices, values, residual, W_dec, sums, dots);
  }
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

/// Column `col` of one latent's two gradient rows; of one that is not wanted (no values or no
/// grad_values) 0.
struct GradientElement {
  float W_dec, W_enc;
};
THRESHER_DEVICE inline GradientElement gradient_element(std::int64_t latent, std::int64_t d,
                                                        std::int64_t col, std::int64_t n_lanes,
                                                        const LatentPairs* lanes) {
  LaneSums decoder, encoder;
  for (std::int64_t lane = 0; lane < n_lanes; ++lane) {
    const LatentPairs& pairs = lanes[lane];
    GradientElement sum{0.0f, 0.0f};
    for (std::int64_t p = pairs.offsets[latent]; p < pairs.offsets[latent + 1]; ++p) {
      const std::int64_t row = pairs.pair_rows[p];
      const std::int64_t input = row < pairs.n_inputs ? row : row - pairs.n_inputs;
      const std::int32_t slot = pairs.pair_slots[p];
      if (pairs.values != nullptr) {
        sum.W_dec += pairs.values[slot] * pairs.residuals[row * d + col];
      }
      if (pairs.grad_values == nullptr) continue;
      sum.W_enc += pairs.grad_values[slot] * pairs.inputs[input * d + col];
    }
    decoder.add(lane, sum.W_dec);
    encoder.add(lane, sum.W_enc);
  }
  return {decoder.waiting[0], encoder.waiting[0]};
}

THRESHER_DEVICE inline float bias_gradient(std::int64_t latent, std::int64_t n_lanes,
                                           const LatentPairs* lanes) {
  LaneSums tree;
  for (std::int64_t lane = 0; lane < n_lanes; ++lane) {
    const LatentPairs& pairs = lanes[lane];
    float sum = 0.0f;
    for (std::int64_t p = pairs.offsets[latent]; p < pairs.offsets[latent + 1]; ++p) {
      sum += pairs.grad_values[pairs.pair_slots[p]];
    }
    tree.add(lane, sum);
  }
  return tree.waiting[0];
}

}  // namespace thresher::kernels::detail
