#pragma once

#include <cstdint>

#include "kernels/detail/device_code.h"
#include "kernels/detail/topk_order.h"

namespace thresher::kernels::detail {

constexpr std::uint32_t kDigitGroups = 16;

/// What the threads of a block share while they select from one row.
struct TopKState {
  std::uint32_t histogram[256];
  std::uint32_t group_sums[kDigitGroups];  // of 16 digits each
  std::uint64_t prefix;                    // the leading digits of the k-th best entry
  std::uint32_t remaining;       // how many of the entries with that prefix are still wanted
  std::uint32_t count_in_digit;  // entries with that prefix
  std::uint32_t filled;
  std::uint32_t taken;
};

/// One row of pre-activations; `mask` may be null.
struct TopKRow {
  const float* values;
  const std::uint8_t* mask;
  std::uint32_t cols;

  THRESHER_DEVICE bool is_open(std::uint32_t col) const {
    return mask == nullptr || mask[col] != 0;
  }
  THRESHER_DEVICE std::uint64_t entry(std::uint32_t col) const {
    return topk_entry(values[col], col);
  }
};

/// Finds the digit where the `remaining` best of the histogram end, and takes the entries above it
/// off `remaining`.
template <class Block>
THRESHER_DEVICE void find_digit(Block& block, TopKState* state) {
  block.each([&](std::uint32_t thread) {
    for (std::uint32_t g = thread; g < kDigitGroups; g += block.threads()) {
      std::uint32_t sum = 0;
      for (std::uint32_t i = 0; i < 16; ++i) sum += state->histogram[16 * g + i];
      state->group_sums[g] = sum;
    }
  });
  block.each([&](std::uint32_t thread) {
    if (thread != 0) return;
    std::uint32_t group = kDigitGroups - 1;
    while (group > 0 && state->group_sums[group] < state->remaining) {
      state->remaining -= state->group_sums[group--];
    }
    std::uint32_t digit = 16 * group + 15;
    while (digit > 0 && state->histogram[digit] < state->remaining) {
      state->remaining -= state->histogram[digit--];
    }
    state->prefix = state->prefix << 8 | digit;
    state->count_in_digit = state->histogram[digit];
  });
}

/// Radix selection, 8 bits a round from the top: a number that exactly k entries of the row reach.
/// Entries are unique. Needs k open columns. The lowest `exact` bits may be 0 in the result where
/// the entries allow it; those above are the k-th best entry's. `Row` is like TopKRow.
template <class Block, class Row>
THRESHER_DEVICE std::uint64_t topk_threshold(Block& block, const Row& row, std::uint32_t k,
                                             TopKState* state, int exact = 64) {
  block.each([&](std::uint32_t thread) {
    if (thread != 0) return;
    state->prefix = 0;
    state->remaining = k;
    state->filled = 0;
    state->taken = 0;
  });
  for (int shift = 56; shift >= 0; shift -= 8) {
    const std::uint64_t prefix = state->prefix;
    block.each([&](std::uint32_t thread) {
      for (std::uint32_t i = thread; i < 256; i += block.threads()) state->histogram[i] = 0;
    });
    block.each([&](std::uint32_t thread) {
      for (std::uint32_t col = thread; col < row.cols; col += block.threads()) {
        const std::uint64_t digits = row.entry(col) >> shift;
        if (row.is_open(col) && (digits >> 8) == prefix) {
          block.fetch_add(&state->histogram[digits & 255]);
        }
      }
    });
    find_digit(block, state);
    if (shift <= exact && state->count_in_digit == state->remaining) return state->prefix << shift;
  }
  return state->prefix;
}

/// Bitonic sort, largest first; `count` is a power of two.
template <class Block>
THRESHER_DEVICE void sort_entries(Block& block, std::uint64_t* entries, std::uint32_t count) {
  for (std::uint32_t size = 2; size <= count; size *= 2) {
    for (std::uint32_t stride = size / 2; stride >= 1; stride /= 2) {
      block.each([&](std::uint32_t thread) {
        for (std::uint32_t i = thread; i < count; i += block.threads()) {
          const std::uint32_t j = i ^ stride;
          if (j <= i) continue;
          const bool is_descending = (i & size) == 0;
          if ((entries[i] < entries[j]) == is_descending) {
            const std::uint64_t entry = entries[i];
            entries[i] = entries[j];
            entries[j] = entry;
          }
        }
      });
    }
  }
}

/// Selects one row. `entries` has room for `padded` numbers, the next power of two from k on.
template <class Block>
THRESHER_DEVICE void topk_block(Block& block, const TopKRow& row, std::uint32_t k,
                                std::uint32_t padded, TopKState* state, std::uint64_t* entries,
                                float* values, std::int32_t* indices) {
  const std::uint64_t threshold = topk_threshold(block, row, k, state);
  block.each([&](std::uint32_t thread) {
    for (std::uint32_t col = thread; col < row.cols; col += block.threads()) {
      const std::uint64_t entry = row.entry(col);
      // The order of arrival does not matter: the sort decides.
      if (row.is_open(col) && entry >= threshold) entries[block.fetch_add(&state->filled)] = entry;
    }
    for (std::uint32_t i = k + thread; i < padded; i += block.threads()) entries[i] = 0;
  });
  sort_entries(block, entries, padded);
  block.each([&](std::uint32_t thread) {
    for (std::uint32_t j = thread; j < k; j += block.threads()) {
      indices[j] = topk_index(entries[j]);
      values[j] = row.values[indices[j]];
    }
  });
}

}  // namespace thresher::kernels::detail
