#pragma once

#include <cstdint>
#include <cstring>

// Sums over the dimensions of a row use a fixed number of partial sums ("lanes" of the vector unit,
// not of the batch) that are added as a tree: element i goes to lane i % kLanes. So the compiler
// may use vectors of any width without changing a bit, and a GPU that gives one thread to a lane
// returns the same bits.

/// Compiles a hot function for several instruction sets and picks one when the program starts.
/// Sanitizers run before that choice can be made, so they get the plain version.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define THRESHER_HOT __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define THRESHER_HOT
#endif
#define THRESHER_INLINE inline __attribute__((always_inline))

namespace thresher::kernels::detail {

constexpr std::int64_t kFloatLanes = 16;
constexpr std::int64_t kDoubleLanes = 8;

using FloatLanes = float __attribute__((vector_size(64)));
using HalfFloatLanes = float __attribute__((vector_size(32)));
using DoubleLanes = double __attribute__((vector_size(64)));

/// Adds lanes pairwise: (i, i + n/2), then (i, i + n/4), ... ; overwrites them.
template <class T>
THRESHER_INLINE T add_lanes(T* lanes, std::int64_t count) {
  for (std::int64_t half = count / 2; half >= 1; half /= 2) {
    for (std::int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

THRESHER_INLINE float dot_float(const float* a, const float* b, std::int64_t count) {
  FloatLanes sums{};
  FloatLanes left, right;
  std::int64_t i = 0;
  for (; i + kFloatLanes <= count; i += kFloatLanes) {
    std::memcpy(&left, a + i, sizeof(left));
    std::memcpy(&right, b + i, sizeof(right));
    sums += left * right;
  }
  float lanes[kFloatLanes];
  std::memcpy(lanes, &sums, sizeof(lanes));
  for (std::int64_t lane = 0; i < count; ++i, ++lane) lanes[lane] += a[i] * b[i];
  return add_lanes(lanes, kFloatLanes);
}

THRESHER_INLINE double dot_double(const float* a, const float* b, std::int64_t count) {
  DoubleLanes sums{};
  HalfFloatLanes left, right;
  std::int64_t i = 0;
  for (; i + kDoubleLanes <= count; i += kDoubleLanes) {
    std::memcpy(&left, a + i, sizeof(left));
    std::memcpy(&right, b + i, sizeof(right));
    sums +=
        __builtin_convertvector(left, DoubleLanes) * __builtin_convertvector(right, DoubleLanes);
  }
  double lanes[kDoubleLanes];
  std::memcpy(lanes, &sums, sizeof(lanes));
  for (std::int64_t lane = 0; i < count; ++i, ++lane) {
    lanes[lane] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return add_lanes(lanes, kDoubleLanes);
}

}  // namespace thresher::kernels::detail
