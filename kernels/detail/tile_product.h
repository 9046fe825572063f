#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/detail/encode_tile.h"
#include "kernels/detail/pack_vectors.h"

// Dense products of packed matrices by the tile of the encoder product. An element is one chain of
// multiply-adds in the order of the inner dimension that starts at +0, then the bias, whatever the
// shape, tile or number of threads. A side is cut into tiles of `width` vectors (EncodeTile's rows
// on the left, its columns on the right), each packed as [depth][width].
namespace thresher::kernels::detail {

inline void grow(std::vector<float>& buffer, std::int64_t count) {
  if (static_cast<std::int64_t>(buffer.size()) < count) {
    buffer.resize(static_cast<std::size_t>(count));
  }
}

template <int kCount>
inline void copy_fixed(const float* from, float* to) {
  std::memcpy(to, from, kCount * sizeof(float));
}

/// Copies a row of a tile; whole rows of the usual tiles without a call.
inline void copy_row(std::int64_t count, const float* from, float* to) {
  switch (count) {
    case 32:
      return copy_fixed<32>(from, to);
    case 16:
      return copy_fixed<16>(from, to);
    case 14:
      return copy_fixed<14>(from, to);
    default:
      std::copy_n(from, count, to);
  }
}

/// One side of a product, packed.
struct PackedSide {
  std::int64_t tiles = 0;
  std::vector<float> values;  // [tiles][depth][width]
};

/// Vectors are the rows [*, depth] of a matrix at the given places.
void pack_rows(std::span<const std::int32_t> places, std::int64_t depth, std::int64_t width,
               const float* matrix, PackedSide& out);

/// Vectors are the columns of the rows [*, count] of a matrix at the given places.
void pack_columns(std::span<const std::int32_t> places, std::int64_t count, std::int64_t width,
                  const float* matrix, PackedSide& out);

/// Element `row` of every vector: values [count] into [tiles][depth][width], padded with zeros.
void pack_element(std::int64_t count, std::int64_t row, std::int64_t depth, std::int64_t width,
                  const float* values, float* out);

/// Calls take(left tile, right tile, z) for all of left_tiles x right_tiles, z [rows][cols] of the
/// tile. `bias` [right_tiles * cols] or null.
template <class Take>
void multiply_tiles(const EncodeTile& tile, std::int64_t depth, std::int64_t left_tiles,
                    const float* left, std::int64_t right_tiles, const float* right,
                    const float* bias, const Take& take) {
  static constexpr float kZero[kMaxTileCols] = {};
  alignas(64) float z[kMaxTileRows * kMaxTileCols];
  const std::int64_t bytes = tile.cols * depth * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t block =
      std::max<std::int64_t>(1, kColumnBlockBytes / std::max<std::int64_t>(1, bytes));
  for (std::int64_t b = 0; b < right_tiles; b += block) {
    for (std::int64_t l = 0; l < left_tiles; ++l) {
      for (std::int64_t t = b; t < std::min(b + block, right_tiles); ++t) {
        tile.run(depth, left + l * tile.rows * depth, right + t * tile.cols * depth,
                 bias == nullptr ? kZero : bias + t * tile.cols, z);
        take(l, t, static_cast<const float*>(z));
      }
    }
  }
}

}  // namespace thresher::kernels::detail
