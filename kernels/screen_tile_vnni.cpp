#include "kernels/detail/screen_tile_body.h"

#if defined(__AVX512VNNI__)
#include "kernels/detail/screen_find_avx512.h"

namespace thresher::kernels::detail {
namespace {

/// A function of its own, or g++ keeps the sums in memory.
__attribute__((noinline)) void multiply_bytes(std::int64_t groups, const std::int8_t* x,
                                              const std::uint8_t* w, std::int32_t* out) {
  __m512i sums[kRows][2] = {};
  for (std::int64_t g = 0; g < groups; ++g, x += kRows * kByteGroup, w += kCols * kByteGroup) {
    const __m512i left = _mm512_loadu_si512(w), right = _mm512_loadu_si512(w + 64);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      std::int32_t four;
      std::memcpy(&four, x + r * kByteGroup, sizeof(four));
      const __m512i row = _mm512_set1_epi32(four);
      sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], left, row);
      sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], right, row);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    _mm512_storeu_si512(out + r * kCols, sums[r][0]);
    _mm512_storeu_si512(out + r * kCols + 16, sums[r][1]);
  }
}

void run_vnni(std::int64_t d, const ScreenRows& rows, const ScreenColumns& columns, float* upper,
              float* maxima, std::int64_t stride) {
  alignas(64) std::int32_t sums[kRows * kCols];
  multiply_bytes((d + kByteGroup - 1) / kByteGroup, static_cast<const std::int8_t*>(rows.packed),
                 static_cast<const std::uint8_t*>(columns.packed), sums);
  limit_bytes<kRows, kCols>(sums, rows, columns, upper, maxima, stride);
}

}  // namespace

const ScreenTile kByteScreenVnni{kRows, kCols, true, run_vnni, find_with_masks, pack_bytes, dots};

}  // namespace thresher::kernels::detail
#else
namespace thresher::kernels::detail {
const ScreenTile kByteScreenVnni{};
}  // namespace thresher::kernels::detail
#endif
