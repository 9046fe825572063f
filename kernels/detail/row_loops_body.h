#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/detail/row_loops.h"

// Included by one file an instruction set, which says what a vector is:
//
//     Isa::Vector       a vector of floats
//     Isa::Doubles      a vector of doubles of the same size
//     Isa::Half         as many floats as Isa::Doubles has doubles
//     Isa::kSumVectors  vectors of sums that registers hold
//     Isa::kDots        dot products at a time
//
// Everything here is local to that file: code compiled for AVX-512 must not be what the linker
// keeps for all.
namespace thresher::kernels::detail {
namespace {

/// The columns that fill no vector.
struct Single {
  using Vector = float;
};

// Templates take the instruction set, not the vector: a template argument loses the vector's size.
template <class Isa>
inline typename Isa::Vector load(const float* from) {
  typename Isa::Vector value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <class Isa>
inline void store(typename Isa::Vector value, float* to) {
  std::memcpy(to, &value, sizeof(value));
}

template <class Isa>
constexpr std::int64_t kWidth = sizeof(typename Isa::Vector) / sizeof(float);

constexpr std::int64_t kLineFloats = 16;

/// The columns from `col` on of a RowSum, as many as kVectors hold.
template <class Isa, int kVectors>
void sum_columns(const RowSum& job, std::int64_t col, float* stack, float* out) {
  using Vector = typename Isa::Vector;
  constexpr std::int64_t kStep = kWidth<Isa>;
  std::int64_t i = 0, depth = 0;
  for (std::int64_t s = 0; s < job.n_segments; ++s) {
    const LaneSegment segment = job.segments[s];
    Vector sums[kVectors] = {};
    if (job.start != nullptr) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[v] = load<Isa>(job.start + col + v * kStep);
    }
    for (; i < segment.end; ++i) {
      const float* row = job.rows[i] + col;
      const Vector coefficient = job.coefficients[i] - Vector{};
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[v] += coefficient * load<Isa>(row + v * kStep);
      if (i < job.n_next) {
        const float* next = job.next_rows[i] + col;
#pragma GCC unroll 16
        for (std::int64_t c = 0; c < kVectors * kStep; c += kLineFloats) {
          __builtin_prefetch(next + c, 0, 2);
        }
      }
    }
    for (std::int64_t m = 0; m < segment.merges; ++m) {
      --depth;
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        sums[v] = load<Isa>(stack + depth * kMaxBlockCols + v * kStep) + sums[v];
      }
    }
    float* to = s + 1 < job.n_segments ? stack + depth++ * kMaxBlockCols : out + col;
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) store<Isa>(sums[v], to + v * kStep);
  }
}

/// Blocks of kVectors as long as there are so many columns left, then of half as many. Returns the
/// first column left.
template <class Isa, int kVectors>
std::int64_t sum_blocks(const RowSum& job, std::int64_t col, std::int64_t d, float* stack,
                        float* out) {
  constexpr std::int64_t kCols = kVectors * kWidth<Isa>;
  static_assert(kCols <= kMaxBlockCols);
  for (; col + kCols <= d; col += kCols) sum_columns<Isa, kVectors>(job, col, stack, out);
  if constexpr (kVectors > 1) {
    return sum_blocks<Isa, kVectors / 2>(job, col, d, stack, out);
  } else {
    return col;
  }
}

template <class Isa>
void sum(const RowSum& job, std::int64_t d, float* stack, float* out) {
  const std::int64_t col = sum_blocks<Isa, Isa::kSumVectors>(job, 0, d, stack, out);
  sum_blocks<Single, 1>(job, col, d, stack, out);
}

constexpr std::int64_t kDotParts = 16;  // kFloatLanes of detail/lanes.h

/// Adds part i + half to part i, for halving halves.
inline float add_parts(float* parts) {
  for (std::int64_t half = kDotParts / 2; half >= 1; half /= 2) {
    for (std::int64_t i = 0; i < half; ++i) parts[i] += parts[i + half];
  }
  return parts[0];
}

template <class Isa, int kRows>
void dot_rows(const float* const* rows, const float* vector, std::int64_t d, float* out) {
  using Vector = typename Isa::Vector;
  constexpr int kVectors = kDotParts / kWidth<Isa>;
  Vector sums[kRows][kVectors] = {};
  std::int64_t c = 0;
  for (; c + kDotParts <= d; c += kDotParts) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vector right = load<Isa>(vector + c + v * kWidth<Isa>);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        sums[r][v] += load<Isa>(rows[r] + c + v * kWidth<Isa>) * right;
      }
    }
  }
  float parts[kRows][kDotParts];
  std::memcpy(parts, sums, sizeof(parts));
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    for (std::int64_t i = c; i < d; ++i) parts[r][i - c] += rows[r][i] * vector[i];
    out[r] = add_parts(parts[r]);
  }
}

template <class Isa>
void dots(std::int64_t count, const float* const* rows, const float* vector, std::int64_t d,
          float* out) {
  std::int64_t i = 0;
  for (; i + Isa::kDots <= count; i += Isa::kDots) {
    dot_rows<Isa, Isa::kDots>(rows + i, vector, d, out + i);
  }
  for (; i < count; ++i) dot_rows<Isa, 1>(rows + i, vector, d, out + i);
}

constexpr std::int64_t kDoubleParts = 8;  // kDoubleLanes of detail/lanes.h

inline double add_double_parts(double* parts) {
  for (std::int64_t half = kDoubleParts / 2; half >= 1; half /= 2) {
    for (std::int64_t i = 0; i < half; ++i) parts[i] += parts[i + half];
  }
  return parts[0];
}

template <class Isa>
inline typename Isa::Doubles load_doubles(const float* from) {
  typename Isa::Half half;
  std::memcpy(&half, from, sizeof(half));
  return __builtin_convertvector(half, typename Isa::Doubles);
}

template <class Isa>
RowDots row_dots(const float* a, const float* b, std::int64_t d) {
  using Doubles = typename Isa::Doubles;
  constexpr std::int64_t kStep = sizeof(Doubles) / sizeof(double);
  constexpr int kVectors = kDoubleParts / kStep;
  Doubles aa[kVectors] = {}, ab[kVectors] = {}, bb[kVectors] = {};
  std::int64_t c = 0;
  for (; c + kDoubleParts <= d; c += kDoubleParts) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Doubles left = load_doubles<Isa>(a + c + v * kStep);
      const Doubles right = load_doubles<Isa>(b + c + v * kStep);
      aa[v] += left * left;
      ab[v] += left * right;
      bb[v] += right * right;
    }
  }
  double parts[3][kDoubleParts];
  std::memcpy(parts[0], aa, sizeof(aa));
  std::memcpy(parts[1], ab, sizeof(ab));
  std::memcpy(parts[2], bb, sizeof(bb));
  for (std::int64_t i = 0; c < d; ++c, ++i) {
    const auto left = static_cast<double>(a[c]), right = static_cast<double>(b[c]);
    parts[0][i] += left * left;
    parts[1][i] += left * right;
    parts[2][i] += right * right;
  }
  return {add_double_parts(parts[0]), add_double_parts(parts[1]), add_double_parts(parts[2])};
}

template <class Isa>
double squares(const float* row, std::int64_t d) {
  using Doubles = typename Isa::Doubles;
  constexpr std::int64_t kStep = sizeof(Doubles) / sizeof(double);
  constexpr int kVectors = kDoubleParts / kStep;
  Doubles sums[kVectors] = {};
  std::int64_t c = 0;
  for (; c + kDoubleParts <= d; c += kDoubleParts) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Doubles values = load_doubles<Isa>(row + c + v * kStep);
      sums[v] += values * values;
    }
  }
  double parts[kDoubleParts];
  std::memcpy(parts, sums, sizeof(parts));
  for (std::int64_t i = 0; c < d; ++c, ++i) {
    parts[i] += static_cast<double>(row[c]) * static_cast<double>(row[c]);
  }
  return add_double_parts(parts);
}

template <class Isa>
void adam(const AdamFactors& factors, std::int64_t count, const float* __restrict gradient,
          float* __restrict weights, float* __restrict m, float* __restrict v) {
  const AdamFactors f = factors;
  for (std::int64_t i = 0; i < count; ++i) {
    adam_element(f, gradient[i], weights[i], m[i], v[i]);
  }
}

template <class Isa>
void adam_unit_row(const AdamFactors& factors, double parallel, bool renormalises, std::int64_t d,
                   const float* __restrict gradient, float* __restrict weights, float* __restrict m,
                   float* __restrict v) {
  const AdamFactors f = factors;
  for (std::int64_t i = 0; i < d; ++i) {
    const float left = perpendicular_element(parallel, gradient[i], weights[i]);
    adam_element(f, left, weights[i], m[i], v[i]);
  }
  if (!renormalises) return;
  const double sum = squares<Isa>(weights, d);
  if (sum == 0.0) return;
  const double scale = 1.0 / std::sqrt(sum);
  for (std::int64_t i = 0; i < d; ++i) {
    weights[i] = static_cast<float>(static_cast<double>(weights[i]) * scale);
  }
}

template <class Isa>
void add_row(double coefficient, const float* __restrict row, std::int64_t d,
             double* __restrict sums) {
  for (std::int64_t c = 0; c < d; ++c) sums[c] += coefficient * static_cast<double>(row[c]);
}

template <class Isa>
void subtract(const float* x, const float* recon, std::int64_t d, float* out) {
  for (std::int64_t c = 0; c < d; ++c) out[c] = x[c] - recon[c];
}

template <class Isa>
constexpr RowLoops loops_of() {
  return {sum<Isa>,           dots<Isa>,    row_dots<Isa>, adam<Isa>,
          adam_unit_row<Isa>, add_row<Isa>, subtract<Isa>};
}

}  // namespace
}  // namespace thresher::kernels::detail
