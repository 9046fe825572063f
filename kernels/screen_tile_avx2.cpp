#include "kernels/detail/screen_tile_body.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

namespace thresher::kernels::detail {
namespace {

constexpr int kRows = 6, kCols = 16;

void find_with_masks(std::int64_t n_rows, const float* upper, const float* limits,
                     const float* row_bounds, const float* column_bounds, std::uint32_t* hits) {
  const __m256 left = _mm256_loadu_ps(column_bounds), right = _mm256_loadu_ps(column_bounds + 8);
  const auto not_below = [](__m256 most, __m256 row, __m256 column) {
    const __m256 both = _mm256_and_ps(_mm256_cmp_ps(most, row, _CMP_NLT_UQ),
                                      _mm256_cmp_ps(most, column, _CMP_NLT_UQ));
    return static_cast<std::uint32_t>(_mm256_movemask_ps(both));
  };
  for (std::int64_t r = 0; r < n_rows; ++r, upper += kCols) {
    const __m256 limit = _mm256_set1_ps(limits[r]), row = _mm256_set1_ps(row_bounds[r]);
    hits[r] = not_below(_mm256_add_ps(_mm256_loadu_ps(upper), limit), row, left) |
              not_below(_mm256_add_ps(_mm256_loadu_ps(upper + 8), limit), row, right) << 8;
  }
}

}  // namespace

const ScreenTile kFloatScreenAvx2{
    kRows,           kCols,       false, run_floats<kEncodeTileAvx2, kRows, kCols>,
    find_with_masks, pack_floats, dots};

}  // namespace thresher::kernels::detail
#else
namespace thresher::kernels::detail {
const ScreenTile kFloatScreenAvx2{};
}  // namespace thresher::kernels::detail
#endif
