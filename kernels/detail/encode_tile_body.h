#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/detail/encode_tile.h"

// Included by one file an instruction set, which says what a vector is:
//
//     Vector                             a vector of floats
//     multiply_add(a, b, sum)            a * b + sum
//
// Everything here is local to that file: code compiled for AVX-512 must not be what the linker
// keeps for all.
namespace thresher::kernels::detail {
namespace {

/// One vector at a time: g++ copies an array of them through the stack.
template <class Vector>
inline Vector load(const float* from) {
  Vector out;
  std::memcpy(&out, from, sizeof(out));
  return out;
}

template <class Isa, int kRows, int kVectors>
void run_tile(std::int64_t d, const float* x, const float* W, const float* bias, float* z) {
  using Vector = typename Isa::Vector;
  constexpr int kWidth = sizeof(Vector) / sizeof(float);
  constexpr int kCols = kVectors * kWidth;
  static_assert(kRows <= kMaxTileRows && kCols <= kMaxTileCols);

  Vector sums[kRows][kVectors] = {};
  for (std::int64_t p = 0; p < d; ++p, x += kRows, W += kCols) {
    Vector w[kVectors];
    for (int v = 0; v < kVectors; ++v) w[v] = load<Vector>(W + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vector broadcast = x[r] - Vector{};
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = Isa::multiply_add(broadcast, w[v], sums[r][v]);
      }
    }
  }

  Vector b[kVectors];
  for (int v = 0; v < kVectors; ++v) b[v] = load<Vector>(bias + v * kWidth);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vector value = sums[r][v] + b[v];
      std::memcpy(z + r * kCols + v * kWidth, &value, sizeof(value));
    }
  }
}

}  // namespace
}  // namespace thresher::kernels::detail
