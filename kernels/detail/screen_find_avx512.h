#pragma once

#include <immintrin.h>

#include <cstdint>

// For the files that are compiled for AVX-512.
namespace thresher::kernels::detail {
namespace {

constexpr int kRows = 14, kCols = 32;

inline void find_with_masks(std::int64_t n_rows, const float* upper, const float* limits,
                            const float* row_bounds, const float* column_bounds,
                            std::uint32_t* hits) {
  const __m512 left = _mm512_loadu_ps(column_bounds), right = _mm512_loadu_ps(column_bounds + 16);
  const auto not_below = [](__m512 most, __m512 row, __m512 column) -> std::uint32_t {
    return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(most, row, _CMP_NLT_UQ), most, column,
                                   _CMP_NLT_UQ);
  };
  for (std::int64_t r = 0; r < n_rows; ++r, upper += kCols) {
    const __m512 limit = _mm512_set1_ps(limits[r]), row = _mm512_set1_ps(row_bounds[r]);
    hits[r] = not_below(_mm512_add_ps(_mm512_loadu_ps(upper), limit), row, left) |
              not_below(_mm512_add_ps(_mm512_loadu_ps(upper + 16), limit), row, right) << 16;
  }
}

}  // namespace
}  // namespace thresher::kernels::detail
