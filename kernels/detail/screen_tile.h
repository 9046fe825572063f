#pragma once

#include <cstdint>

#include "kernels/cpu_isa.h"

namespace thresher::kernels::detail {

/// One tile of packed rows of x, for a ScreenTile; arrays of numbers have one a row.
struct ScreenRows {
  const void* packed;
  const std::int32_t* start;  // what products of bytes begin with
  const float* scale;         // of bytes
  const float* error;         // of |x - x'| and of float32 arithmetic, a factor of |w|
  const float* norm;          // |x'|, a factor of |w - w'|
};

/// One tile of packed latents.
struct ScreenColumns {
  const void* packed;
  const float* scale;
  const float* bias;
  const float* norm;   // |w|
  const float* error;  // |w - w'|
  const float* slack;  // of adding the bias; infinity where nothing is known
};

/// A row or latent as it is packed, x' = scale * bytes or itself, and norms, rounded up. A scale
/// that is not finite says that the numbers are not, or too small or large for the limits.
struct Packed {
  float scale, norm, error;
  std::int32_t sum;  // of the bytes
};

/// A block of the encoder product, `rows` x `cols` of it, and limits above which no pre-activation
/// lies:
///
///     x . w <= x' . w' + |x - x'| |w| + |x'| |w - w'|   (Cauchy-Schwarz, twice)
///
/// and what float32 arithmetic may add. In bytes, x' and w' are rounded to 255 steps; in floats
/// they are x and w.
struct ScreenTile {
  int rows, cols;
  bool is_bytes;

  /// upper [rows][cols]: of bytes, the limits, NaN or infinity where nothing is known; of floats,
  /// the pre-activations, since one limit a row and tile is close enough. maxima [rows][cols] with
  /// `stride` between rows are raised to the products; may be null.
  void (*run)(std::int64_t d, const ScreenRows& rows, const ScreenColumns& columns, float* upper,
              float* maxima, std::int64_t stride);
  /// Bit c of hits[r] is set unless upper [n_rows][cols] + limits[r] is below row_bounds[r] or
  /// column_bounds[c].
  void (*find)(std::int64_t n_rows, const float* upper, const float* limits,
               const float* row_bounds, const float* column_bounds, std::uint32_t* hits);
  /// Packs `count` rows or latents, in[i] [d], to a tile of `width` of them: of bytes
  /// [d / 4][width][4] with `offset` added to each, of floats [d][width]; what is beyond `count` is
  /// zero. Numbers are multiplied by `factors` [d] first (bytes only).
  void (*pack)(std::int64_t count, std::int64_t d, std::int64_t width, const float* const* in,
               const float* factors, std::int32_t offset, void* out, Packed* packed);
  /// out[i] = x[i] . w[i], as dot_float adds; fastest where equal w follow each other.
  void (*dots)(std::int64_t count, std::int64_t d, const float* const* x, const float* const* w,
               float* out);
};

// Added to the bytes of latents: products are of unsigned with signed bytes.
constexpr std::int32_t kByteOffset = 128;
constexpr std::int64_t kByteGroup = 4;  // bytes of one row that lie together

/// In floats; InternalError if this processor lacks the instruction set.
const ScreenTile& float_screen_tile(CpuIsa isa);
/// In bytes; null where those are no faster, unless `slow_too`.
const ScreenTile* byte_screen_tile(CpuIsa isa, bool slow_too);

/// One a file, so that each is compiled for its instruction set.
extern const ScreenTile kFloatScreenAvx2, kFloatScreenAvx512, kByteScreenVnni;

}  // namespace thresher::kernels::detail
