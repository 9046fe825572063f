#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/detail/encode_tile.h"
#include "kernels/detail/lanes.h"
#include "kernels/detail/pack_vectors.h"
#include "kernels/detail/screen_tile.h"

// Included by one file an instruction set, whose compiler options make vectors of the loops;
// everything here is local to that file.
namespace thresher::kernels::detail {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargestByte = 127;

// Outside of these limits squares underflow or sums overflow, and the bounds would not hold.
constexpr float kLeastMaximum = 1e-15f;
constexpr float kLargestMaximum = 1e9f;

// Sums of squares in 16 lanes are right to well within this part.
constexpr float kNormSlack = 1.001f;

/// Calls take(i, lane) for every i below d.
template <class Take>
inline void each_in_lanes(std::int64_t d, const Take& take) {
  std::int64_t i = 0;
  for (; i + kFloatLanes <= d; i += kFloatLanes) {
    for (std::int64_t lane = 0; lane < kFloatLanes; ++lane) take(i + lane, lane);
  }
  for (std::int64_t lane = 0; i < d; ++i, ++lane) take(i, lane);
}

struct Sizes {
  float maximum, norm;
  bool is_known;
};

/// Of in * factors; null factors are 1.
inline Sizes sizes_of(std::int64_t d, const float* in, const float* factors) {
  float most[kFloatLanes] = {}, squares[kFloatLanes] = {};
  each_in_lanes(d, [&](std::int64_t i, std::int64_t lane) {
    const float value = factors == nullptr ? in[i] : in[i] * factors[i];
    const float size = std::fabs(value);
    most[lane] = size > most[lane] ? size : most[lane];
    squares[lane] += value * value;
  });
  float maximum = 0;
  for (const float size : most) maximum = size > maximum ? size : maximum;
  const float norm = std::sqrt(add_lanes(squares, kFloatLanes)) * kNormSlack;
  // The norm tells of NaN, which no comparison finds.
  const bool is_known =
      maximum == 0 ? norm == 0
                   : maximum >= kLeastMaximum && maximum <= kLargestMaximum && norm < kInfinity;
  return {maximum, norm, is_known};
}

inline Packed quantise(std::int64_t d, const float* in, const float* factors, std::int8_t* out) {
  const Sizes sizes = sizes_of(d, in, factors);
  if (!sizes.is_known) {
    std::memset(out, 0, static_cast<std::size_t>(d));
    return {kInfinity, 0, 0, 0};
  }
  const float scale = sizes.maximum / kLargestByte;
  const float inverse = sizes.maximum > 0 ? kLargestByte / sizes.maximum : 0;
  float errors[kFloatLanes] = {};
  std::int32_t sums[kFloatLanes] = {};
  each_in_lanes(d, [&](std::int64_t i, std::int64_t lane) {
    const float value = in[i] * factors[i];
    const auto byte = static_cast<std::int32_t>(std::nearbyintf(value * inverse));
    const float error = value - scale * static_cast<float>(byte);
    errors[lane] += error * error;
    sums[lane] += byte;
    out[i] = static_cast<std::int8_t>(byte);
  });
  std::int32_t sum = 0;
  for (const std::int32_t part : sums) sum += part;
  // value and error are rounded themselves, by no more than this part of the norm.
  const float error = std::sqrt(add_lanes(errors, kFloatLanes)) * kNormSlack;
  return {scale, sizes.norm, error + sizes.norm * 0x1p-21f, sum};
}

inline void pack_bytes(std::int64_t count, std::int64_t d, std::int64_t width,
                       const float* const* in, const float* factors, std::int32_t offset, void* out,
                       Packed* packed) {
  const std::int64_t groups = (d + kByteGroup - 1) / kByteGroup;
  std::vector<std::int8_t> bytes(static_cast<std::size_t>(groups * kByteGroup));
  auto* to = static_cast<std::uint8_t*>(out);
  std::uint32_t offsets = static_cast<std::uint32_t>(offset) * 0x01010101U;
  for (std::int64_t c = 0; c < width; ++c) {
    if (c < count) {
      packed[c] = quantise(d, in[c], factors, bytes.data());
    } else {
      std::memset(bytes.data(), 0, bytes.size());
    }
    for (std::int64_t g = 0; g < groups; ++g) {
      std::uint32_t four;
      std::memcpy(&four, bytes.data() + g * kByteGroup, sizeof(four));
      // -128 does not occur, so 128 added to a byte is its first bit turned over.
      four ^= offsets;
      std::memcpy(to + (g * width + c) * kByteGroup, &four, sizeof(four));
    }
  }
}

inline void pack_floats(std::int64_t count, std::int64_t d, std::int64_t width,
                        const float* const* in, const float* /*factors*/, std::int32_t /*offset*/,
                        void* out, Packed* packed) {
  pack_vectors(count, d, width, in, static_cast<float*>(out));
  for (std::int64_t c = 0; c < count; ++c) {
    const Sizes sizes = sizes_of(d, in[c], nullptr);
    packed[c] = {sizes.is_known ? 1 : kInfinity, sizes.is_known ? sizes.norm : 0, 0, 0};
  }
}

inline void raise(const float* z, int count, float* most) {
  for (int c = 0; c < count; ++c) most[c] = z[c] > most[c] ? z[c] : most[c];
}

/// From products of bytes [kRows][kCols].
template <int kRows, int kCols>
inline void limit_bytes(const std::int32_t* sums, const ScreenRows& rows,
                        const ScreenColumns& columns, float* upper, float* maxima,
                        std::int64_t stride) {
  for (std::int64_t r = 0; r < kRows; ++r) {
    const float scale = rows.scale[r], error = rows.error[r], norm = rows.norm[r];
    const std::int32_t start = rows.start[r];
    float z[kCols];
    for (int c = 0; c < kCols; ++c) {
      z[c] = static_cast<float>(sums[r * kCols + c] + start) * (scale * columns.scale[c]) +
             columns.bias[c];
    }
    for (int c = 0; c < kCols; ++c) {
      upper[r * kCols + c] =
          z[c] + (error * columns.norm[c] + (norm * columns.error[c] + columns.slack[c]));
    }
    if (maxima != nullptr) raise(z, kCols, maxima + r * stride);
  }
}

template <const EncodeTile& kTile, int kRows, int kCols>
void run_floats(std::int64_t d, const ScreenRows& rows, const ScreenColumns& columns, float* upper,
                float* maxima, std::int64_t stride) {
  kTile.run(d, static_cast<const float*>(rows.packed), static_cast<const float*>(columns.packed),
            columns.bias, upper);
  if (maxima == nullptr) return;
  for (std::int64_t r = 0; r < kRows; ++r) raise(upper + r * kCols, kCols, maxima + r * stride);
}

template <int kRows, int kCols>
void run_bytes(std::int64_t d, const ScreenRows& rows, const ScreenColumns& columns, float* upper,
               float* maxima, std::int64_t stride) {
  std::int32_t sums[kRows * kCols] = {};
  const auto* x = static_cast<const std::int8_t*>(rows.packed);
  const auto* w = static_cast<const std::uint8_t*>(columns.packed);
  for (std::int64_t i = 0; i < d;
       i += kByteGroup, x += kRows * kByteGroup, w += kCols * kByteGroup) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kCols; ++c) {
        for (std::int64_t b = 0; b < kByteGroup; ++b) {
          sums[r * kCols + c] += x[r * kByteGroup + b] * w[c * kByteGroup + b];
        }
      }
    }
  }
  limit_bytes<kRows, kCols>(sums, rows, columns, upper, maxima, stride);
}

template <int kCols>
void find(std::int64_t n_rows, const float* upper, const float* limits, const float* row_bounds,
          const float* column_bounds, std::uint32_t* hits) {
  for (std::int64_t r = 0; r < n_rows; ++r) {
    std::uint32_t found = 0;
    for (int c = 0; c < kCols; ++c) {
      const float most = upper[r * kCols + c] + limits[r];
      const bool is_below = most < row_bounds[r] || most < column_bounds[c];
      found |= static_cast<std::uint32_t>(!is_below) << c;
    }
    hits[r] = found;
  }
}

/// Four of them at a time, or each would wait for its own additions. With kIsShared all w are one.
template <bool kIsShared>
inline void four_dots(std::int64_t d, const float* const* x, const float* const* w, float* out) {
  FloatLanes sums[4] = {};
  std::int64_t i = 0;
  for (; i + kFloatLanes <= d; i += kFloatLanes) {
    FloatLanes left, right;
    if (kIsShared) std::memcpy(&right, w[0] + i, sizeof(right));
#pragma GCC unroll 4
    for (int pair = 0; pair < 4; ++pair) {
      if (!kIsShared) std::memcpy(&right, w[pair] + i, sizeof(right));
      std::memcpy(&left, x[pair] + i, sizeof(left));
      sums[pair] += left * right;
    }
  }
  for (int pair = 0; pair < 4; ++pair) {
    float lanes[kFloatLanes];
    std::memcpy(lanes, &sums[pair], sizeof(lanes));
    for (std::int64_t p = i, lane = 0; p < d; ++p, ++lane) lanes[lane] += x[pair][p] * w[pair][p];
    out[pair] = add_lanes(lanes, kFloatLanes);
  }
}

inline void dots(std::int64_t count, std::int64_t d, const float* const* x, const float* const* w,
                 float* out) {
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    if (w[i] == w[i + 3]) {
      four_dots<true>(d, x + i, w + i, out + i);
    } else {
      four_dots<false>(d, x + i, w + i, out + i);
    }
  }
  for (; i < count; ++i) out[i] = dot_float(x[i], w[i], d);
}

}  // namespace
}  // namespace thresher::kernels::detail
