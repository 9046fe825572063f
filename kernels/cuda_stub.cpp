#include <fmt/format.h>

#include "core/error.h"
#include "kernels/detail/backends.h"

// Stands in for the *_cuda.cu files in a build without CUDA.

namespace thresher::kernels::detail {
namespace {

[[noreturn]] void refuse(const char* kernel) {
  throw DeviceError(fmt::format("{}: this build has no CUDA kernels", kernel),
                    "a build configured with -DTHRESHER_CUDA=ON",
                    "reconfigure with -DTHRESHER_CUDA=ON, or set run.device: cpu");
}

}  // namespace

void topk_cuda(void*, std::int64_t, std::int64_t, std::int64_t, const float*, float*,
               std::int32_t*) {
  refuse("topk");
}
void topk_masked_cuda(void*, std::int64_t, std::int64_t, std::int64_t, const float*,
                      const std::uint8_t*, float*, std::int32_t*) {
  refuse("topk_masked");
}
void sparse_decode_cuda(void*, std::int64_t, std::int64_t, const std::int64_t*, const std::int32_t*,
                        const float*, const float*, const float*, float*) {
  refuse("sparse_decode");
}
void sparse_decode_grad_values_cuda(void*, std::int64_t, std::int64_t, const std::int64_t*,
                                    const std::int32_t*, const float*, const float*, float*) {
  refuse("sparse_decode_grad_values");
}
void sparse_residuals_cuda(void*, std::int64_t, std::int64_t, const std::int64_t*,
                           const std::int32_t*, const float*, const float*, const float*,
                           const float*, float*, float*) {
  refuse("sparse_residuals");
}
void accumulate_gradients_cuda(void*, std::int64_t, std::int64_t, std::int64_t, const LatentPairs*,
                               float*, float*, float*) {
  refuse("accumulate_gradients");
}
void column_sums_cuda(void*, std::int64_t, std::int64_t, const float*, const float*, double*) {
  refuse("column_sums");
}
void row_norms_cuda(void*, std::int64_t, std::int64_t, const float*, float*) {
  refuse("row_norms");
}
void normalise_rows_cuda(void*, std::int64_t, std::int64_t, float*) { refuse("normalise_rows"); }
void parallel_components_cuda(void*, std::int64_t, std::int64_t, const float*, const float*,
                              double*, double*) {
  refuse("parallel_components");
}
void row_squares_cuda(void*, std::int64_t, std::int64_t, const float*, double*) {
  refuse("sum_of_squares");
}
void adam_cuda(void*, const AdamStep&, std::int64_t, const float*, float*, float*, float*) {
  refuse("adam");
}
void adam_unit_rows_cuda(void*, const AdamStep&, std::int64_t, std::int64_t, const float*,
                         const double*, bool, float*, float*, float*) {
  refuse("adam_unit_rows");
}
void decide_update_cuda(void*, std::int64_t, const double*, double, UpdateControl*) {
  refuse("decide_update");
}
void adam_controlled_cuda(void*, const AdamStep&, const UpdateControl*, std::int64_t, const float*,
                          float*, float*, float*, std::uint16_t*) {
  refuse("adam");
}
void adam_unit_rows_controlled_cuda(void*, const AdamStep&, const UpdateControl*, std::int64_t,
                                    std::int64_t, const float*, const double*, bool, float*, float*,
                                    float*, std::uint16_t*) {
  refuse("adam_unit_rows");
}
void parallel_components_on_cuda(void*, std::int64_t, std::int64_t, const float*, const float*,
                                 double*, double*) {
  refuse("parallel_components");
}
void sum_of_squares_on_cuda(void*, std::int64_t, const float*, double*) {
  refuse("sum_of_squares");
}
void column_sums_on_cuda(void*, std::int64_t, std::int64_t, const float*, const float*, double*) {
  refuse("column_sums");
}
void centre_rows_cuda(void*, std::int64_t, std::int64_t, const float*, const float*, float*,
                      std::uint16_t*) {
  refuse("centre_rows");
}
void sort_pairs_by_latent_cuda(void*, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                               const std::int32_t*, const float*, std::int64_t*, std::int32_t*,
                               std::int32_t*) {
  refuse("sort_pairs_by_latent");
}
void mixed_residuals_cuda(void*, std::int64_t, std::int64_t, const std::int64_t*,
                          const std::int32_t*, const float*, const std::uint16_t*, const float*,
                          const float*, float*, std::uint16_t*, float*) {
  refuse("sparse_residuals");
}
void mixed_gradients_cuda(void*, std::int64_t, std::int64_t, const MixedPairs&, float*, float*,
                          float*) {
  refuse("accumulate_gradients");
}
void encode_topk_cuda(void*, const EncoderOperands&, const TopKSlots&, const std::uint8_t*,
                      const TopKSlots*, std::int64_t*) {
  refuse("encode_topk");
}

}  // namespace thresher::kernels::detail
