#include "kernels/sparse_decode.h"

#include "core/error.h"
#include "kernels/detail/backends.h"

namespace thresher::kernels {
namespace {

bool is_power_of_two(std::int64_t value) { return value >= 1 && (value & (value - 1)) == 0; }

}  // namespace

void sparse_decode(const Exec& exec, std::int64_t rows, std::int64_t d,
                   const std::int64_t* row_offsets, const std::int32_t* indices,
                   const float* values, const float* W_dec, const float* bias, float* recon) {
  THRESHER_CHECK(rows >= 0 && d >= 0, "sparse_decode: a size is negative");
  if (rows == 0 || d == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::sparse_decode_cpu(rows, d, row_offsets, indices, values, W_dec, bias, recon);
    case Device::kCuda:
      return detail::sparse_decode_cuda(exec.stream, rows, d, row_offsets, indices, values, W_dec,
                                        bias, recon);
  }
}

void sparse_decode_grad_values(const Exec& exec, std::int64_t rows, std::int64_t d,
                               const std::int64_t* row_offsets, const std::int32_t* indices,
                               const float* grad_recon, const float* W_dec, float* grad_values) {
  THRESHER_CHECK(rows >= 0 && d >= 0, "sparse_decode_grad_values: a size is negative");
  if (rows == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::sparse_decode_grad_values_cpu(rows, d, row_offsets, indices, grad_recon, W_dec,
                                                   grad_values);
    case Device::kCuda:
      return detail::sparse_decode_grad_values_cuda(exec.stream, rows, d, row_offsets, indices,
                                                    grad_recon, W_dec, grad_values);
  }
}

void sparse_residuals(const Exec& exec, std::int64_t rows, std::int64_t d,
                      const std::int64_t* row_offsets, const std::int32_t* indices,
                      const float* values, const float* W_dec, const float* bias, const float* x,
                      float* residuals, float* dots) {
  THRESHER_CHECK(rows >= 0 && d >= 0, "sparse_residuals: a size is negative");
  if (rows == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::sparse_residuals_cpu(rows, d, row_offsets, indices, values, W_dec, bias, x,
                                          residuals, dots);
    case Device::kCuda:
      return detail::sparse_residuals_cuda(exec.stream, rows, d, row_offsets, indices, values,
                                           W_dec, bias, x, residuals, dots);
  }
}

void accumulate_gradients(const Exec& exec, std::int64_t n_latents, std::int64_t d,
                          std::int64_t n_lanes, const LatentPairs* lanes, float* W_dec,
                          float* W_enc, float* b_enc) {
  THRESHER_CHECK(n_latents >= 0 && d >= 0, "accumulate_gradients: a size is negative");
  THRESHER_CHECK(is_power_of_two(n_lanes), "accumulate_gradients: lanes are no power of two");
  THRESHER_CHECK((W_enc == nullptr) == (b_enc == nullptr), "W_enc and b_enc are wanted together");
  if (n_latents == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::accumulate_gradients_cpu(n_latents, d, n_lanes, lanes, W_dec, W_enc, b_enc);
    case Device::kCuda:
      return detail::accumulate_gradients_cuda(exec.stream, n_latents, d, n_lanes, lanes, W_dec,
                                               W_enc, b_enc);
  }
}

}  // namespace thresher::kernels
