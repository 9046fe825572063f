#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "kernels/sparse_decode.h"

namespace thresher::kernels {

void sort_pairs_by_latent(std::int64_t rows, std::int64_t n_latents,
                          const std::int64_t* row_offsets, const std::int32_t* indices,
                          const float* values, std::int64_t* offsets, std::int32_t* pair_rows,
                          std::int32_t* pair_slots) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  THRESHER_CHECK(rows >= 0 && n_latents >= 0, "sort_pairs_by_latent: a size is negative");
  THRESHER_CHECK(rows <= kMost && row_offsets[rows] <= kMost,
                 "sort_pairs_by_latent: more than 2^31 - 1 rows or slots");
  std::fill_n(offsets, n_latents + 1, std::int64_t{0});
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t slot = row_offsets[row]; slot < row_offsets[row + 1]; ++slot) {
      if (values[slot] == 0.0f) continue;
      const std::int64_t latent = indices[slot];
      if (latent < 0 || latent >= n_latents) {
        throw InternalError(
            fmt::format("sort_pairs_by_latent: latent {} of row {}, expected 0 <= latent < {}",
                        latent, row, n_latents));
      }
      ++offsets[latent + 1];
    }
  }
  for (std::int64_t latent = 0; latent < n_latents; ++latent)
    offsets[latent + 1] += offsets[latent];
  // offsets[latent] is used as the place of the latent's next pair and so ends where the next
  // latent starts.
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t slot = row_offsets[row]; slot < row_offsets[row + 1]; ++slot) {
      if (values[slot] == 0.0f) continue;
      const std::int64_t place = offsets[indices[slot]]++;
      pair_rows[place] = static_cast<std::int32_t>(row);
      pair_slots[place] = static_cast<std::int32_t>(slot);
    }
  }
  for (std::int64_t latent = n_latents; latent > 0; --latent) offsets[latent] = offsets[latent - 1];
  if (n_latents > 0) offsets[0] = 0;
}

}  // namespace thresher::kernels
