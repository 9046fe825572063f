#include "kernels/mixed_precision.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "kernels/bfloat16.h"
#include "kernels/detail/backends.h"
#include "kernels/detail/bfloat16_device.h"
#include "kernels/sparse_decode.h"

namespace thresher::kernels {
namespace {

std::vector<float> widened(const std::uint16_t* values, std::int64_t count) {
  std::vector<float> out;
  out.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) out.push_back(detail::from_bfloat16(values[i]));
  return out;
}

/// One more than the largest of `numbers`, 0 of none.
std::int64_t rows_named(const std::int32_t* numbers, std::int64_t begin, std::int64_t end) {
  std::int64_t rows = 0;
  for (std::int64_t i = begin; i < end; ++i) rows = std::max<std::int64_t>(rows, numbers[i] + 1);
  return rows;
}

}  // namespace

void sparse_residuals(const Exec& exec, std::int64_t rows, std::int64_t d,
                      const std::int64_t* row_offsets, const std::int32_t* indices,
                      const float* values, const std::uint16_t* W_dec, const float* bias,
                      const float* x, float* residuals, std::uint16_t* rounded, float* dots) {
  THRESHER_CHECK(rows >= 0 && d >= 1, "sparse_residuals: a size is negative or d is 0");
  if (rows == 0) return;
  if (exec.device == Device::kCuda) {
    return detail::mixed_residuals_cuda(exec.stream, rows, d, row_offsets, indices, values, W_dec,
                                        bias, x, residuals, rounded, dots);
  }
  const std::int64_t n_latents = rows_named(indices, row_offsets[0], row_offsets[rows]);
  const std::vector<float> W = widened(W_dec, n_latents * d);
  detail::sparse_residuals_cpu(rows, d, row_offsets, indices, values, W.data(), bias, x, residuals,
                               dots);
  if (rounded != nullptr) {
    detail::centre_rows_cpu(rows, d, residuals, nullptr, nullptr, rounded);
  }
}

void accumulate_gradients(const Exec& exec, std::int64_t n_latents, std::int64_t d,
                          const MixedPairs& pairs, float* W_dec, float* W_enc, float* b_enc) {
  THRESHER_CHECK(n_latents >= 0 && d >= 1, "accumulate_gradients: a size is negative or d is 0");
  if (n_latents == 0) return;
  if (exec.device == Device::kCuda) {
    return detail::mixed_gradients_cuda(exec.stream, n_latents, d, pairs, W_dec, W_enc, b_enc);
  }
  const std::int64_t rows = rows_named(pairs.pair_rows, 0, pairs.offsets[n_latents]);
  const std::vector<float> residuals = widened(pairs.residuals, rows * d);
  const std::vector<float> inputs = widened(pairs.inputs, std::min(rows, pairs.n_inputs) * d);
  const LatentPairs lane{pairs.offsets,     pairs.pair_rows,  pairs.pair_slots, pairs.values,
                         pairs.grad_values, residuals.data(), inputs.data(),    pairs.n_inputs};
  detail::accumulate_gradients_cpu(n_latents, d, 1, &lane, W_dec, W_enc, b_enc);
}

}  // namespace thresher::kernels
