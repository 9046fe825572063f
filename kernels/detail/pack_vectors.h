#pragma once

#include <cstdint>

namespace thresher::kernels::detail {

/// Columns that a thread goes through again and again should stay in its second-level cache.
constexpr std::int64_t kColumnBlockBytes = std::int64_t{384} << 10;

constexpr std::int64_t tiles_of(std::int64_t count, std::int64_t width) {
  return (count + width - 1) / width;
}

/// One tile of vectors that lie in rows of memory: in [count][depth] -> out [depth][width], zero
/// from `count` on.
void pack_vectors(std::int64_t count, std::int64_t depth, std::int64_t width,
                  const float* const* in, float* out);

}  // namespace thresher::kernels::detail
