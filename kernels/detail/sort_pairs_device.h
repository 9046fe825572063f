#pragma once

#include <cstdint>

#include "kernels/detail/device_code.h"

// Sorting pairs by latent: every slot gets a key, a stable sort brings equal keys together in the
// order of slots (so of rows), and where a latent's keys begin is found by halving.

namespace thresher::kernels::detail {

/// The latent of a slot, or `n_latents` for one that is no pair: a value of exactly 0, a latent out
/// of range, a slot behind the last row's.
THRESHER_DEVICE inline std::uint32_t pair_key(std::int64_t slot, std::int64_t n_used,
                                              std::int64_t n_latents, const std::int32_t* indices,
                                              const float* values) {
  const auto none = static_cast<std::uint32_t>(n_latents);
  if (slot >= n_used || values[slot] == 0.0f) return none;
  const auto latent = static_cast<std::uint32_t>(indices[slot]);
  return latent < none ? latent : none;
}

/// How many of the ascending `keys` [count] are below `key`.
THRESHER_DEVICE inline std::int64_t keys_below(const std::uint32_t* keys, std::int64_t count,
                                               std::uint32_t key) {
  std::int64_t low = 0;
  while (count > 0) {
    const std::int64_t half = count / 2;
    if (keys[low + half] < key) {
      low += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return low;
}

/// The row that holds a slot: row_offsets[row] <= slot < row_offsets[row + 1].
THRESHER_DEVICE inline std::int32_t row_of_slot(const std::int64_t* row_offsets, std::int64_t rows,
                                                std::int64_t slot) {
  std::int64_t low = 0;  // the last row that begins at or before the slot
  while (rows > 1) {
    const std::int64_t half = rows / 2;
    if (row_offsets[low + half] <= slot) {
      low += half;
      rows -= half;
    } else {
      rows = half;
    }
  }
  return static_cast<std::int32_t>(low);
}

}  // namespace thresher::kernels::detail
