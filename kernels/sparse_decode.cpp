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

void accumulate_latent_rows(const Exec& exec, std::int64_t n_latents, std::int64_t d,
                            std::int64_t n_lanes, const LatentRows* lanes, float* out) {
  THRESHER_CHECK(n_latents >= 0 && d >= 0, "accumulate_latent_rows: a size is negative");
  THRESHER_CHECK(is_power_of_two(n_lanes), "accumulate_latent_rows: lanes are no power of two");
  if (n_latents == 0 || d == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::accumulate_latent_rows_cpu(n_latents, d, n_lanes, lanes, out);
    case Device::kCuda:
      return detail::accumulate_latent_rows_cuda(exec.stream, n_latents, d, n_lanes, lanes, out);
  }
}

void accumulate_latent_scalars(const Exec& exec, std::int64_t n_latents, std::int64_t n_lanes,
                               const LatentRows* lanes, float* out) {
  THRESHER_CHECK(n_latents >= 0, "accumulate_latent_scalars: a size is negative");
  THRESHER_CHECK(is_power_of_two(n_lanes), "accumulate_latent_scalars: lanes are no power of two");
  if (n_latents == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::accumulate_latent_scalars_cpu(n_latents, n_lanes, lanes, out);
    case Device::kCuda:
      return detail::accumulate_latent_scalars_cuda(exec.stream, n_latents, n_lanes, lanes, out);
  }
}

}  // namespace thresher::kernels
