#pragma once

#include <cstdint>

#include "kernels/adam.h"
#include "kernels/sparse_decode.h"

/// The kernels once more, as plainly as they can be written: what tests compare every backend with.
/// Sums run in double and in index order, so on small integers they are exact and must be equal bit
/// for bit.
namespace thresher::kernels::reference {

void topk(std::int64_t rows, std::int64_t cols, std::int64_t k, const float* pre_acts,
          const std::uint8_t* mask /* or null */, float* values, std::int32_t* indices);

void sparse_decode(std::int64_t rows, std::int64_t d, const std::int64_t* row_offsets,
                   const std::int32_t* indices, const float* values, const float* W_dec,
                   const float* bias, float* recon);
void sparse_decode_grad_values(std::int64_t rows, std::int64_t d, const std::int64_t* row_offsets,
                               const std::int32_t* indices, const float* grad_recon,
                               const float* W_dec, float* grad_values);
void sparse_residuals(std::int64_t rows, std::int64_t d, const std::int64_t* row_offsets,
                      const std::int32_t* indices, const float* values, const float* W_dec,
                      const float* bias, const float* x, float* residuals, float* dots);
/// out [n_latents, d]: sum over rows and slots of coefficients * rows[row], where `values` is not
/// 0.
void accumulate_latent_rows(std::int64_t n_rows, std::int64_t n_latents, std::int64_t d,
                            const std::int64_t* row_offsets, const std::int32_t* indices,
                            const float* values, const float* coefficients, const float* rows,
                            float* out);

void column_sums(std::int64_t rows, std::int64_t cols, const float* coefficients /* or null */,
                 const float* values, double* sums);
void row_norms(std::int64_t rows, std::int64_t cols, const float* W, float* norms);
void normalise_rows(std::int64_t rows, std::int64_t cols, float* W);
void remove_parallel_component(std::int64_t rows, std::int64_t cols, const float* W, float* grad);
double sum_of_squares(std::int64_t count, const float* values);

void adam(const AdamStep& step, std::int64_t count, const float* gradient, float* weights, float* m,
          float* v);

}  // namespace thresher::kernels::reference
