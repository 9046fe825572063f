#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "core/error.h"
#include "kernels/detail/backends.h"
#include "kernels/parallel.h"
#include "kernels/sparse_decode.h"

namespace thresher::kernels {
namespace {

constexpr std::int64_t kSlotsPerThread = std::int64_t{1} << 16;

struct Pairs {
  std::int64_t rows, n_latents;
  const std::int64_t* row_offsets;
  const std::int32_t* indices;
  const float* values;

  std::int64_t n_slots() const { return row_offsets[rows] - row_offsets[0]; }
  /// The first row of a part, with about equally many slots in every part.
  std::int64_t first_row(std::int64_t part, std::int64_t parts) const {
    if (part == parts) return rows;
    const std::int64_t slot = row_offsets[0] + n_slots() / parts * part;
    return std::lower_bound(row_offsets, row_offsets + rows, slot) - row_offsets;
  }
  template <class Body>  // body(row, slot)
  void for_active(std::int64_t part, std::int64_t parts, const Body& body) const {
    for (std::int64_t row = first_row(part, parts); row < first_row(part + 1, parts); ++row) {
      for (std::int64_t slot = row_offsets[row]; slot < row_offsets[row + 1]; ++slot) {
        if (values[slot] != 0.0f) body(row, slot);
      }
    }
  }
};

void count(const Pairs& pairs, std::int64_t part, std::int64_t parts, std::int32_t* counts) {
  pairs.for_active(part, parts, [&](std::int64_t row, std::int64_t slot) {
    const std::int64_t latent = pairs.indices[slot];
    if (latent < 0 || latent >= pairs.n_latents) {
      throw InternalError(
          fmt::format("sort_pairs_by_latent: latent {} of row {}, expected 0 <= latent < {}",
                      latent, row, pairs.n_latents));
    }
    ++counts[latent];
  });
}

}  // namespace

void sort_pairs_by_latent(std::int64_t rows, std::int64_t n_latents,
                          const std::int64_t* row_offsets, const std::int32_t* indices,
                          const float* values, std::int64_t* offsets, std::int32_t* pair_rows,
                          std::int32_t* pair_slots) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  THRESHER_CHECK(rows >= 0 && n_latents >= 0, "sort_pairs_by_latent: a size is negative");
  THRESHER_CHECK(rows <= kMost && row_offsets[rows] <= kMost,
                 "sort_pairs_by_latent: more than 2^31 - 1 rows or slots");
  const Pairs pairs{rows, n_latents, row_offsets, indices, values};
  const std::int64_t parts =
      std::clamp<std::int64_t>(pairs.n_slots() / kSlotsPerThread, 1, num_threads());
  // Of every part and latent: how many pairs, then the place of the next one.
  std::vector<std::int32_t> places(static_cast<std::size_t>(parts * n_latents), 0);
  const auto for_parts = [&](const auto& body) {
    detail::parallel_for(parts, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        body(part, places.data() + part * n_latents);
      }
    });
  };
  for_parts([&](std::int64_t part, std::int32_t* counts) { count(pairs, part, parts, counts); });
  std::int32_t next = 0;
  for (std::int64_t latent = 0; latent < n_latents; ++latent) {
    offsets[latent] = next;
    for (std::int64_t part = 0; part < parts; ++part) {
      std::int32_t& place = places[static_cast<std::size_t>(part * n_latents + latent)];
      const std::int32_t n = place;
      place = next;
      next += n;
    }
  }
  offsets[n_latents] = next;
  for_parts([&](std::int64_t part, std::int32_t* place) {
    pairs.for_active(part, parts, [&](std::int64_t row, std::int64_t slot) {
      const std::int32_t at = place[indices[slot]]++;
      pair_rows[at] = static_cast<std::int32_t>(row);
      pair_slots[at] = static_cast<std::int32_t>(slot);
    });
  });
}

void sort_pairs_by_latent(const Exec& exec, std::int64_t rows, std::int64_t n_latents,
                          std::int64_t n_slots, const std::int64_t* row_offsets,
                          const std::int32_t* indices, const float* values, std::int64_t* offsets,
                          std::int32_t* pair_rows, std::int32_t* pair_slots) {
  if (exec.device == Device::kCpu) {
    return sort_pairs_by_latent(rows, n_latents, row_offsets, indices, values, offsets, pair_rows,
                                pair_slots);
  }
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  THRESHER_CHECK(rows >= 0 && n_latents >= 0 && n_slots >= 0,
                 "sort_pairs_by_latent: a size is negative");
  THRESHER_CHECK(rows <= kMost && n_slots <= kMost && n_latents < kMost,
                 "sort_pairs_by_latent: more than 2^31 - 1 rows, slots or latents");
  detail::sort_pairs_by_latent_cuda(exec.stream, rows, n_latents, n_slots, row_offsets, indices,
                                    values, offsets, pair_rows, pair_slots);
}

}  // namespace thresher::kernels
