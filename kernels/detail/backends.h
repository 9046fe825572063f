#pragma once

#include <cstdint>

#include "kernels/adam.h"
#include "kernels/encode_topk.h"
#include "kernels/mixed_precision.h"
#include "kernels/sparse_decode.h"

// The two backends of every kernel. Arguments are checked by the dispatchers in kernels/*.cpp. This
// header is read by nvcc too: C++17.

namespace thresher::kernels::detail {

/// InternalError if the mask leaves fewer than k columns.
void check_open_columns(std::int64_t k, std::int64_t n_open, std::int64_t cols);
void topk_cpu(std::int64_t rows, std::int64_t cols, std::int64_t k, const float* pre_acts,
              float* values, std::int32_t* indices);
void topk_masked_cpu(std::int64_t rows, std::int64_t cols, std::int64_t k, const float* pre_acts,
                     const std::uint8_t* mask, float* values, std::int32_t* indices);
void topk_cuda(void* stream, std::int64_t rows, std::int64_t cols, std::int64_t k,
               const float* pre_acts, float* values, std::int32_t* indices);
void topk_masked_cuda(void* stream, std::int64_t rows, std::int64_t cols, std::int64_t k,
                      const float* pre_acts, const std::uint8_t* mask, float* values,
                      std::int32_t* indices);

void sparse_decode_cpu(std::int64_t rows, std::int64_t d, const std::int64_t* row_offsets,
                       const std::int32_t* indices, const float* values, const float* W_dec,
                       const float* bias, float* recon);
void sparse_decode_cuda(void* stream, std::int64_t rows, std::int64_t d,
                        const std::int64_t* row_offsets, const std::int32_t* indices,
                        const float* values, const float* W_dec, const float* bias, float* recon);
void sparse_decode_grad_values_cpu(std::int64_t rows, std::int64_t d,
                                   const std::int64_t* row_offsets, const std::int32_t* indices,
                                   const float* grad_recon, const float* W_dec, float* grad_values);
void sparse_decode_grad_values_cuda(void* stream, std::int64_t rows, std::int64_t d,
                                    const std::int64_t* row_offsets, const std::int32_t* indices,
                                    const float* grad_recon, const float* W_dec,
                                    float* grad_values);
void sparse_residuals_cpu(std::int64_t rows, std::int64_t d, const std::int64_t* row_offsets,
                          const std::int32_t* indices, const float* values, const float* W_dec,
                          const float* bias, const float* x, float* residuals, float* dots);
void sparse_residuals_cuda(void* stream, std::int64_t rows, std::int64_t d,
                           const std::int64_t* row_offsets, const std::int32_t* indices,
                           const float* values, const float* W_dec, const float* bias,
                           const float* x, float* residuals, float* dots);
void accumulate_gradients_cpu(std::int64_t n_latents, std::int64_t d, std::int64_t n_lanes,
                              const LatentPairs* lanes, float* W_dec, float* W_enc, float* b_enc);
void accumulate_gradients_cuda(void* stream, std::int64_t n_latents, std::int64_t d,
                               std::int64_t n_lanes, const LatentPairs* lanes, float* W_dec,
                               float* W_enc, float* b_enc);

void column_sums_cpu(std::int64_t rows, std::int64_t cols, const float* coefficients,
                     const float* values, double* sums);
/// `sums` is host memory: the call waits for the stream.
void column_sums_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* coefficients,
                      const float* values, double* sums);

void row_norms_cpu(std::int64_t rows, std::int64_t cols, const float* W, float* norms);
void row_norms_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* W,
                    float* norms);
void normalise_rows_cpu(std::int64_t rows, std::int64_t cols, float* W);
void normalise_rows_cuda(void* stream, std::int64_t rows, std::int64_t cols, float* W);
/// `squares` [rows]: the dispatcher adds them with tree_sum.
void parallel_components_cpu(std::int64_t rows, std::int64_t cols, const float* W,
                             const float* grad, double* factors, double* squares);
/// `squares` is host memory here too: the call waits for the stream.
void parallel_components_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* W,
                              const float* grad, double* factors, double* squares);
/// Sum of squares of every row; the dispatcher adds them with tree_sum.
void row_squares_cpu(std::int64_t rows, std::int64_t cols, const float* values, double* sums);
/// `sums` is host memory here too: the call waits for the stream.
void row_squares_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* values,
                      double* sums);

void adam_cpu(const AdamStep& step, std::int64_t count, const float* gradient, float* weights,
              float* m, float* v);
void adam_cuda(void* stream, const AdamStep& step, std::int64_t count, const float* gradient,
               float* weights, float* m, float* v);
void adam_unit_rows_cpu(const AdamStep& step, std::int64_t rows, std::int64_t cols,
                        const float* gradient, const double* factors, bool renormalises,
                        float* weights, float* m, float* v);
void adam_unit_rows_cuda(void* stream, const AdamStep& step, std::int64_t rows, std::int64_t cols,
                         const float* gradient, const double* factors, bool renormalises,
                         float* weights, float* m, float* v);

void decide_update_cpu(std::int64_t count, const double* squares, double limit,
                       UpdateControl* control);
void decide_update_cuda(void* stream, std::int64_t count, const double* squares, double limit,
                        UpdateControl* control);
void adam_controlled_cuda(void* stream, const AdamStep& step, const UpdateControl* control,
                          std::int64_t count, const float* gradient, float* weights, float* m,
                          float* v, std::uint16_t* bfloat16);
void adam_unit_rows_controlled_cuda(void* stream, const AdamStep& step,
                                    const UpdateControl* control, std::int64_t rows,
                                    std::int64_t cols, const float* gradient, const double* factors,
                                    bool renormalises, float* weights, float* m, float* v,
                                    std::uint16_t* bfloat16);

// Without waiting: results on the device.
void parallel_components_on_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* W,
                                 const float* grad, double* factors, double* squares);
void sum_of_squares_on_cuda(void* stream, std::int64_t count, const float* values, double* squares);
/// sums[c] along the binary tree over parts [blocks, cols] (blocks >= 1), all on the device.
void tree_sums_on_cuda(void* stream, std::int64_t blocks, std::int64_t cols, const double* parts,
                       double* sums);
void column_sums_on_cuda(void* stream, std::int64_t rows, std::int64_t cols,
                         const float* coefficients, const float* values, double* sums);

void centre_rows_cpu(std::int64_t rows, std::int64_t cols, const float* x, const float* centre,
                     float* centred, std::uint16_t* bfloat16);
void centre_rows_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* x,
                      const float* centre, float* centred, std::uint16_t* bfloat16);

void sort_pairs_by_latent_cuda(void* stream, std::int64_t rows, std::int64_t n_latents,
                               std::int64_t n_slots, const std::int64_t* row_offsets,
                               const std::int32_t* indices, const float* values,
                               std::int64_t* offsets, std::int32_t* pair_rows,
                               std::int32_t* pair_slots);

void mixed_residuals_cuda(void* stream, std::int64_t rows, std::int64_t d,
                          const std::int64_t* row_offsets, const std::int32_t* indices,
                          const float* values, const std::uint16_t* W_dec, const float* bias,
                          const float* x, float* residuals, std::uint16_t* rounded, float* dots);
void mixed_gradients_cuda(void* stream, std::int64_t n_latents, std::int64_t d,
                          const MixedPairs& pairs, float* W_dec, float* W_enc, float* b_enc);

void encode_topk_cpu(const EncoderOperands& operands, const TopKSlots& main,
                     const std::uint8_t* mask, const TopKSlots* masked, std::int64_t* not_numbers);
void encode_topk_cuda(void* stream, const EncoderOperands& operands, const TopKSlots& main,
                      const std::uint8_t* mask, const TopKSlots* masked, std::int64_t* not_numbers);

}  // namespace thresher::kernels::detail
