#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/detail/encode_topk_device.h"
#include "kernels/encode_topk.h"

namespace thresher::kernels::detail {

/// How an encode_topk is cut into blocks. The results do not depend on it.
struct EncodePlan {
  std::int64_t rows;           // of one launch
  std::int64_t splits;         // parts of the latents
  std::int64_t split_latents;  // a multiple of the tile's
};

/// Bytes of the lists of one row.
inline std::int64_t encode_row_bytes(std::int64_t splits, std::int64_t k, std::int64_t masked_k) {
  const std::int64_t entries =
      k + kSpareEntries + (masked_k > 0 ? masked_k + kSpareEntries : std::int64_t{0});
  return splits * entries * static_cast<std::int64_t>(sizeof(std::uint64_t));
}

/// `resident` blocks run at a time; the best number of splits leaves few of them idle in the last
/// round. `tile` is the number of latents of a tile; `masked_k` 0: no second selection.
inline EncodePlan plan_encode(std::int64_t rows, std::int64_t n_latents, std::int64_t k,
                              std::int64_t masked_k, std::int64_t tile, std::int64_t resident) {
  // What a block costs beside its tiles (first loads, cuts, the finish's share), in tiles.
  constexpr std::int64_t kBlockOverhead = 2;
  constexpr std::int64_t kMostSplits = 64;
  const auto tiles_of = [](std::int64_t count, std::int64_t size) {
    return (count + size - 1) / size;
  };
  const std::int64_t tiles = tiles_of(n_latents, tile);
  const std::int64_t row_tiles = tiles_of(rows, kEncodeRows);
  EncodePlan best{rows, 1, tiles * tile};
  std::int64_t least = -1;
  for (std::int64_t splits = 1; splits <= std::min(tiles, kMostSplits); ++splits) {
    const std::int64_t split_tiles = tiles_of(tiles, splits);
    if (tiles_of(tiles, split_tiles) != splits) continue;  // the last would be empty
    if (splits > 1 && encode_row_bytes(splits, k, masked_k) * rows > kEncodeWorkBytes) break;
    const std::int64_t rounds = tiles_of(row_tiles * splits, resident);
    const std::int64_t cost = rounds * (split_tiles + kBlockOverhead);
    if (least >= 0 && cost >= least) continue;
    least = cost;
    best = {rows, splits, split_tiles * tile};
  }
  const std::int64_t most =
      kEncodeWorkBytes / (encode_row_bytes(best.splits, k, masked_k) * kEncodeRows);
  best.rows = std::min(rows, std::max<std::int64_t>(1, most) * kEncodeRows);
  return best;
}

}  // namespace thresher::kernels::detail
