#pragma once

#include <cstdint>

#include "kernels/topk.h"

namespace thresher::kernels {

// The sparse products of a training step whose gathered rows are bfloat16 (kernels/bfloat16.h),
// half the memory traffic of sparse_decode.h's; all sums are float32. Slots, rows and pairs are
// those of sparse_decode.h. Everything lies on exec.device; on CUDA nothing waits.

/// residuals[r] = x[r] - (bias + sum over the slots of r of values[slot] * W_dec[indices[slot]]),
/// in the order of the slots; `rounded` is the same in bfloat16; dots[slot] = dot(residuals[r],
/// W_dec[indices[slot]]) with the unrounded residual, 0 where the value is 0. Values of exactly 0
/// are skipped. x, residuals, rounded [rows, d]; W_dec [n_latents, d]; `bias` [d] may be null
/// (zero), `rounded` too (not wanted). The order inside a dot product is fixed, on CUDA the
/// device's own.
void sparse_residuals(const Exec& exec, std::int64_t rows, std::int64_t d,
                      const std::int64_t* row_offsets, const std::int32_t* indices,
                      const float* values, const std::uint16_t* W_dec, const float* bias,
                      const float* x, float* residuals, std::uint16_t* rounded, float* dots);

/// The sorted pairs of a batch and the rows that they take.
struct MixedPairs {
  const std::int64_t* offsets;  // from sort_pairs_by_latent
  const std::int32_t* pair_rows;
  const std::int32_t* pair_slots;
  const float* values;             // one a slot: factors of the residuals, for W_dec
  const float* grad_values;        // one a slot: factors of the inputs, for W_enc and b_enc
  const std::uint16_t* residuals;  // [rows of the pairs, d]
  const std::uint16_t* inputs;     // [n_inputs, d]; row n_inputs + i of the pairs has input i again
  std::int64_t n_inputs;
};

/// accumulate_gradients (sparse_decode.h) of one lane: W_dec, W_enc [n_latents, d] and b_enc
/// [n_latents] in float32, overwritten, all wanted. On CUDA a latent with many pairs (more than 256
/// and than a 512th of all) is summed in eight equal parts, which are added in order.
void accumulate_gradients(const Exec& exec, std::int64_t n_latents, std::int64_t d,
                          const MixedPairs& pairs, float* W_dec, float* W_enc, float* b_enc);

}  // namespace thresher::kernels
