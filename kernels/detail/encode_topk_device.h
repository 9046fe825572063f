#pragma once

#include <cstdint>

#include "kernels/detail/device_code.h"
#include "kernels/detail/topk_device.h"
#include "kernels/detail/topk_order.h"

// The encoder product with its selection. A block owns kEncodeRows rows and one part ("split") of
// the latents and walks through it a tile at a time. What a tile computes and exceeds its row's
// bound is appended to the row's list; before a list could overflow, all are cut down to their k
// best, and the k-th becomes the bound. No block reads what another writes, so nothing depends on
// the order of blocks; inside a block only the order in a list does, and the last selection, in
// finish_row_block, does not look at it.

namespace thresher::kernels::detail {

constexpr std::uint32_t kEncodeRows = 128;
constexpr std::uint32_t kEncodeThreads = 256;
constexpr std::uint32_t kWarpThreads = 32;
constexpr std::uint32_t kEncodeWarps = kEncodeThreads / kWarpThreads;

/// Room in a list beyond k. A tile has at most half as many columns: after a cut there is always
/// room for two.
constexpr std::uint32_t kSpareEntries = 512;

/// The lists of one selection: [rows, splits] of k + kSpareEntries entries (topk_entry).
struct EncodeLists {
  std::uint32_t k;
  const std::uint8_t* mask;  // null: all latents
  std::uint64_t* entries;
  std::uint32_t* counts;

  THRESHER_DEVICE std::uint64_t* list(std::int64_t index) const {
    return entries + index * (k + kSpareEntries);
  }
};

/// What all blocks of a launch know.
struct EncodeTask {
  std::int64_t rows, d, n_latents;
  std::int64_t splits, split_latents;  // latents of a split, the last has what is left
  const float* b_enc;
  std::int64_t* not_numbers;
  std::uint64_t* movers;  // [blocks, kEncodeWarps, kSpareEntries]
  int selections;         // 1, or 2 with masked latents
  EncodeLists lists[2];
};

/// The rows and latents of one block.
struct EncodePlace {
  std::int64_t first_row, split, first_latent, end_latent;
  std::uint64_t* movers;

  THRESHER_DEVICE static EncodePlace of_block(const EncodeTask& task, std::int64_t block) {
    // Neighbours read the same rows of W_enc.
    const std::int64_t row_tiles = (task.rows + kEncodeRows - 1) / kEncodeRows;
    const std::int64_t split = block / row_tiles;
    const std::int64_t first = split * task.split_latents;
    const std::int64_t end = first + task.split_latents;
    return {block % row_tiles * kEncodeRows, split, first,
            end < task.n_latents ? end : task.n_latents,
            task.movers + block * kEncodeWarps * kSpareEntries};
  }
};

/// What the threads of a block share.
struct EncodeState {
  std::uint32_t counts[2][kEncodeRows];
  float bounds[2][kEncodeRows];  // NaN: no bound yet
  std::uint32_t full;            // lists without room for one more tile
  TopKState warps[kEncodeWarps];
};

/// A list as topk_threshold wants it.
struct ListRow {
  const std::uint64_t* entries;
  std::uint32_t cols;
  THRESHER_DEVICE bool is_open(std::uint32_t) const { return true; }
  THRESHER_DEVICE std::uint64_t entry(std::uint32_t col) const { return entries[col]; }
};

/// Moves the k best of a list of more than k to its front and returns the value of the k-th. The
/// later entries among them wait in `movers` until the places of worse ones are free.
template <class Block>
THRESHER_DEVICE float cut_list(Block& block, std::uint32_t k, std::uint32_t count,
                               std::uint64_t* entries, std::uint64_t* movers, TopKState* state) {
  const std::uint64_t threshold = topk_threshold(block, ListRow{entries, count}, k, state, 32);
  block.each([&](std::uint32_t thread) {
    for (std::uint32_t i = k + thread; i < count; i += block.threads()) {
      if (entries[i] >= threshold) movers[block.fetch_add(&state->filled)] = entries[i];
    }
  });
  block.each([&](std::uint32_t thread) {
    for (std::uint32_t i = thread; i < k; i += block.threads()) {
      if (entries[i] < threshold) entries[i] = movers[block.fetch_add(&state->taken)];
    }
  });
  return topk_value(threshold);
}

/// Cuts all lists of the block that are longer than k, a warp a list.
template <class Block>
THRESHER_DEVICE void cut_lists(Block& block, const EncodeTask& task, const EncodePlace& place,
                               EncodeState* state) {
  for (int s = 0; s < task.selections; ++s) {
    const EncodeLists& lists = task.lists[s];
    block.each_warp([&](auto& warp, std::uint32_t index) {
      for (std::uint32_t r = index; r < kEncodeRows; r += kEncodeWarps) {
        const std::uint32_t count = state->counts[s][r];
        if (count <= lists.k) continue;
        const std::int64_t list = (place.first_row + r) * task.splits + place.split;
        const float bound = cut_list(warp, lists.k, count, lists.list(list),
                                     place.movers + index * kSpareEntries, &state->warps[index]);
        warp.each([&](std::uint32_t thread) {
          if (thread != 0) return;
          state->counts[s][r] = lists.k;
          state->bounds[s][r] = bound;
        });
      }
    });
  }
  block.each([&](std::uint32_t thread) {
    if (thread == 0) state->full = 0;
  });
}

/// A thread's part of a tile. `Product` says where its sums lie:
///
///     kCols                        latents of a tile
///     kThreadRows, kThreadCols     a thread has that many of both
///     row(thread, i), col(thread, j), sum(thread, i, j)
///
/// A later entry has a higher index than all that stand in the list, so one that only equals the
/// bound is out. A NaN is not below any bound.
template <class Block, class Product>
THRESHER_DEVICE void append_sums(Block& block, std::uint32_t thread, const EncodeTask& task,
                                 const EncodePlace& place, std::int64_t first_latent,
                                 Product& product, EncodeState* state) {
  std::int64_t not_numbers = 0;
  float bounds[Product::kThreadRows];
  THRESHER_UNROLL
  for (std::uint32_t i = 0; i < Product::kThreadRows; ++i) {
    bounds[i] = state->bounds[0][product.row(thread, i)];
  }
  THRESHER_UNROLL
  for (std::uint32_t j = 0; j < Product::kThreadCols; ++j) {
    const std::int64_t latent = first_latent + product.col(thread, j);
    if (latent >= place.end_latent) continue;
    const float bias = task.b_enc[latent];
    const bool is_masked = task.selections > 1 && task.lists[1].mask[latent] != 0;
    THRESHER_UNROLL
    for (std::uint32_t i = 0; i < Product::kThreadRows; ++i) {
      const float z = product.sum(thread, i, j) + bias;
      const bool is_in = !(z <= bounds[i]);
      const bool is_in_masked = is_masked && !(z <= state->bounds[1][product.row(thread, i)]);
      if (!(is_in || is_in_masked)) continue;
      const std::uint32_t row = product.row(thread, i);
      if (place.first_row + row >= task.rows) continue;
      if (z != z) {
        ++not_numbers;
        continue;
      }
      const std::uint64_t entry = topk_entry(z, static_cast<std::uint32_t>(latent));
      const std::int64_t list = (place.first_row + row) * task.splits + place.split;
      if (is_in) task.lists[0].list(list)[block.fetch_add(&state->counts[0][row])] = entry;
      if (is_in_masked) task.lists[1].list(list)[block.fetch_add(&state->counts[1][row])] = entry;
    }
  }
  if (not_numbers != 0) block.add(task.not_numbers, not_numbers);
}

/// The whole work of one block. `product.run(block, first_latent)` computes the sums of a tile and
/// ends with a barrier only if it needs one: the sums belong to their threads.
template <class Block, class Product>
THRESHER_DEVICE void encode_block(Block& block, const EncodeTask& task, const EncodePlace& place,
                                  Product& product, EncodeState* state) {
  block.each([&](std::uint32_t thread) {
    for (std::uint32_t i = thread; i < 2 * kEncodeRows; i += block.threads()) {
      state->counts[i / kEncodeRows][i % kEncodeRows] = 0;
      state->bounds[i / kEncodeRows][i % kEncodeRows] = not_a_number();
    }
    if (thread == 0) state->full = 0;
  });
  for (std::int64_t first = place.first_latent; first < place.end_latent; first += Product::kCols) {
    product.run(block, first);
    block.each([&](std::uint32_t thread) {
      append_sums(block, thread, task, place, first, product, state);
    });
    block.each([&](std::uint32_t thread) {
      for (int s = 0; s < task.selections; ++s) {
        for (std::uint32_t r = thread; r < kEncodeRows; r += block.threads()) {
          const std::uint32_t room = task.lists[s].k + kSpareEntries - Product::kCols;
          if (state->counts[s][r] > room) block.fetch_add(&state->full);
        }
      }
    });
    if (state->full != 0) cut_lists(block, task, place, state);
  }
  cut_lists(block, task, place, state);
  block.each([&](std::uint32_t thread) {
    for (int s = 0; s < task.selections; ++s) {
      for (std::uint32_t r = thread; r < kEncodeRows; r += block.threads()) {
        const std::int64_t row = place.first_row + r;
        if (row >= task.rows) continue;
        task.lists[s].counts[row * task.splits + place.split] = state->counts[s][r];
      }
    }
  });
}

/// All lists of a row, as topk_threshold wants them.
struct RowOfLists {
  const EncodeLists* lists;
  std::int64_t first_list;
  std::uint32_t cols;  // splits * k

  THRESHER_DEVICE bool is_open(std::uint32_t col) const {
    return col % lists->k < lists->counts[first_list + col / lists->k];
  }
  THRESHER_DEVICE std::uint64_t entry(std::uint32_t col) const {
    return lists->list(first_list + col / lists->k)[col % lists->k];
  }
};

/// The k best of a row's lists, best first; what is missing becomes value 0 of latent 0. `entries`
/// has room for `padded` numbers, the next power of two from k on.
template <class Block>
THRESHER_DEVICE void finish_row_block(Block& block, const EncodeLists& lists, std::int64_t row,
                                      std::int64_t splits, std::uint32_t padded, TopKState* state,
                                      std::uint64_t* entries, float* values,
                                      std::int32_t* indices) {
  const RowOfLists of_row{&lists, row * splits, static_cast<std::uint32_t>(splits) * lists.k};
  std::uint64_t found = 0;
  for (std::int64_t i = 0; i < splits; ++i) found += lists.counts[row * splits + i];
  std::uint64_t threshold = 0;
  if (found > lists.k) {
    threshold = topk_threshold(block, of_row, lists.k, state);
  } else {
    block.each([&](std::uint32_t thread) {
      if (thread == 0) state->filled = 0;
    });
  }
  const auto kept = static_cast<std::uint32_t>(found < lists.k ? found : lists.k);
  block.each([&](std::uint32_t thread) {
    for (std::uint32_t i = thread; i < of_row.cols; i += block.threads()) {
      if (!of_row.is_open(i)) continue;
      const std::uint64_t entry = of_row.entry(i);
      if (entry >= threshold) entries[block.fetch_add(&state->filled)] = entry;
    }
    for (std::uint32_t i = kept + thread; i < padded; i += block.threads()) entries[i] = 0;
  });
  sort_entries(block, entries, padded);
  block.each([&](std::uint32_t thread) {
    for (std::uint32_t j = thread; j < lists.k; j += block.threads()) {
      values[j] = j < kept ? topk_value(entries[j]) : 0.0f;
      indices[j] = j < kept ? topk_index(entries[j]) : 0;
    }
  });
}

}  // namespace thresher::kernels::detail
