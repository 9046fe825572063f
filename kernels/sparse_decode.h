#pragma once

#include <cstdint>

#include "kernels/topk.h"

namespace thresher::kernels {

// Sparse rows are (latent, value) pairs: those of row r stand in the slots [row_offsets[r],
// row_offsets[r + 1]) of `indices` and `values`. `row_offsets` [rows + 1] does not fall; it need
// not start at 0, so a part of the rows is row_offsets + first_row with the same arrays. Like every
// array it lies on exec.device.

/// recon[r] = bias + sum over the slots of r of values[slot] * W_dec[indices[slot]], in the order
/// of the slots (so bits are fixed). Values that are exactly 0 are skipped. bias may be null
/// (zero). recon [rows, d], W_dec [n_latents, d].
void sparse_decode(const Exec& exec, std::int64_t rows, std::int64_t d,
                   const std::int64_t* row_offsets, const std::int32_t* indices,
                   const float* values, const float* W_dec, const float* bias, float* recon);

/// grad_values[slot] = dot(grad_recon[r], W_dec[indices[slot]]) for the slots of every row r,
/// accumulated in a fixed order.
void sparse_decode_grad_values(const Exec& exec, std::int64_t rows, std::int64_t d,
                               const std::int64_t* row_offsets, const std::int32_t* indices,
                               const float* grad_recon, const float* W_dec, float* grad_values);

/// Both in one walk over the rows, while the decoder rows are in the cache: residuals[r] = x[r] -
/// recon[r] with recon as sparse_decode gives it, and dots[slot] = dot(residuals[r],
/// W_dec[indices[slot]]) as sparse_decode_grad_values gives it, but 0 where the value is 0.
/// x, residuals [rows, d].
void sparse_residuals(const Exec& exec, std::int64_t rows, std::int64_t d,
                      const std::int64_t* row_offsets, const std::int32_t* indices,
                      const float* values, const float* W_dec, const float* bias, const float* x,
                      float* residuals, float* dots);

/// (row, slot) pairs ordered by latent, and by row inside a latent: a counting sort, stable.
/// `offsets` [n_latents + 1]; `pair_rows`, `pair_slots` have room for row_offsets[rows] -
/// row_offsets[0]. Pairs whose `values` are exactly 0 are left out. Host memory; InternalError if
/// another pair's latent is out of range.
void sort_pairs_by_latent(std::int64_t rows, std::int64_t n_latents,
                          const std::int64_t* row_offsets, const std::int32_t* indices,
                          const float* values, std::int64_t* offsets, std::int32_t* pair_rows,
                          std::int32_t* pair_slots);

/// The same where everything lies on exec.device; nothing waits. `n_slots` is the room in
/// `pair_rows` and `pair_slots`, at least row_offsets[rows] - row_offsets[0] and below 2^31; what
/// stands there behind offsets[n_latents] is undefined. Bits of a pair's place do not depend on how
/// it is sorted (stable). On CUDA a latent out of range cannot be reported: its pair is left out.
void sort_pairs_by_latent(const Exec& exec, std::int64_t rows, std::int64_t n_latents,
                          std::int64_t n_slots, const std::int64_t* row_offsets,
                          const std::int32_t* indices, const float* values, std::int64_t* offsets,
                          std::int32_t* pair_rows, std::int32_t* pair_slots);

/// The sorted pairs of one lane (micro-batch) and what they add to the weights' gradients.
struct LatentPairs {
  const std::int64_t* offsets;  // from sort_pairs_by_latent
  const std::int32_t* pair_rows;
  const std::int32_t* pair_slots;
  const float* values;       // one a slot: factors of the residuals, for W_dec
  const float* grad_values;  // one a slot: factors of the inputs, for W_enc and b_enc
  const float* residuals;    // [rows of the pairs, d]
  const float* inputs;       // [n_inputs, d]; row n_inputs + i of the pairs has input i again
  std::int64_t n_inputs;
};

/// Gradients from the sparse pairs of several lanes, each [n_latents, d] or [n_latents],
/// overwritten:
///
///     W_dec[latent] = sum over its pairs of values[slot] * residuals[row]
///     W_enc[latent] = sum over its pairs of grad_values[slot] * inputs[row]
///     b_enc[latent] = sum over its pairs of grad_values[slot]
///
/// Where only one weight's are wanted: W_dec, values and residuals may be null, or W_enc, b_enc,
/// grad_values and inputs.
///
/// For each latent the partial sum of every lane starts at +0 and adds its pairs in their order;
/// the lanes' partial sums are added along the binary tree over lanes. `n_lanes` is a power of two
/// (the table `lanes` is host memory, what it points to lies on exec.device). Ranks that own
/// contiguous subtrees get partial results that Communicator::all_reduce_sum completes to the same
/// bits. On CUDA a latent with many pairs (more than 256 and than a 512th of all) of a single lane
/// is summed in eight equal parts, which are added in order.
void accumulate_gradients(const Exec& exec, std::int64_t n_latents, std::int64_t d,
                          std::int64_t n_lanes, const LatentPairs* lanes, float* W_dec,
                          float* W_enc, float* b_enc);

}  // namespace thresher::kernels
