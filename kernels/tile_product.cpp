#include "kernels/detail/tile_product.h"

#include "kernels/parallel.h"

namespace thresher::kernels::detail {

void pack_vectors(std::int64_t count, std::int64_t depth, std::int64_t width,
                  const float* const* in, float* out) {
  // A few elements of every vector at a time, so that what is written stays in the nearest cache.
  constexpr std::int64_t kDepth = 16;
  for (std::int64_t first = 0; first < depth; first += kDepth) {
    const std::int64_t last = std::min(first + kDepth, depth);
    for (std::int64_t c = 0; c < width; ++c) {
      for (std::int64_t p = first; p < last; ++p) out[p * width + c] = c < count ? in[c][p] : 0;
    }
  }
}

void pack_rows(std::span<const std::int32_t> places, std::int64_t depth, std::int64_t width,
               const float* matrix, PackedSide& out) {
  const auto count = static_cast<std::int64_t>(places.size());
  out.tiles = tiles_of(count, width);
  grow(out.values, out.tiles * depth * width);
  parallel_for(out.tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    const float* in[kMaxTileCols];
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t here = std::min(width, count - t * width);
      for (std::int64_t c = 0; c < here; ++c) {
        in[c] = matrix + places[static_cast<std::size_t>(t * width + c)] * depth;
      }
      pack_vectors(here, depth, width, in, out.values.data() + t * depth * width);
    }
  });
}

void pack_element(std::int64_t count, std::int64_t row, std::int64_t depth, std::int64_t width,
                  const float* values, float* out) {
  for (std::int64_t first = 0; first < count; first += width) {
    const std::int64_t here = std::min(width, count - first);
    float* to = out + first * depth + row * width;
    copy_row(here, values + first, to);
    std::fill(to + here, to + width, 0.0f);
  }
}

void pack_columns(std::span<const std::int32_t> places, std::int64_t count, std::int64_t width,
                  const float* matrix, PackedSide& out) {
  const auto depth = static_cast<std::int64_t>(places.size());
  out.tiles = tiles_of(count, width);
  grow(out.values, out.tiles * depth * width);
  parallel_for(depth, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      pack_element(count, r, depth, width, matrix + places[static_cast<std::size_t>(r)] * count,
                   out.values.data());
    }
  });
}

}  // namespace thresher::kernels::detail
