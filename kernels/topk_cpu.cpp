#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/detail/backends.h"
#include "kernels/detail/lanes.h"
#include "kernels/detail/topk_order.h"
#include "kernels/parallel.h"

namespace thresher::kernels::detail {
namespace {

constexpr std::int64_t kScanBlock = 32;

struct TopKScratch {
  std::vector<float> maxima;
  std::vector<std::uint64_t> entries;
};

/// Maxima of `groups` disjoint sets of columns (column modulo groups), NaN left out.
THRESHER_HOT void group_maxima(const float* row, std::int64_t cols, std::int64_t groups,
                               float* maxima) {
  for (std::int64_t g = 0; g < groups; ++g) maxima[g] = -std::numeric_limits<float>::infinity();
  std::int64_t start = 0;
  for (; start + groups <= cols; start += groups) {
    const float* block = row + start;
    for (std::int64_t g = 0; g < groups; ++g)
      maxima[g] = block[g] > maxima[g] ? block[g] : maxima[g];
  }
  for (std::int64_t g = 0; start + g < cols; ++g) {
    maxima[g] = row[start + g] > maxima[g] ? row[start + g] : maxima[g];
  }
}

/// Entries of all columns that are not below the bound (NaN is not); returns how many.
THRESHER_HOT std::int64_t collect(const float* row, std::int64_t cols, float bound,
                                  std::uint64_t* entries) {
  std::int64_t count = 0;
  std::int64_t start = 0;
  for (; start + kScanBlock <= cols; start += kScanBlock) {
    const float* block = row + start;
    int found = 0;
    for (std::int64_t i = 0; i < kScanBlock; ++i) found |= static_cast<int>(!(block[i] < bound));
    if (found == 0) continue;
    for (std::int64_t i = 0; i < kScanBlock; ++i) {
      if (!(block[i] < bound)) {
        entries[count++] = topk_entry(block[i], static_cast<std::uint32_t>(start + i));
      }
    }
  }
  for (; start < cols; ++start) {
    if (!(row[start] < bound)) {
      entries[count++] = topk_entry(row[start], static_cast<std::uint32_t>(start));
    }
  }
  return count;
}

/// The k-th largest of the maxima of at least k disjoint sets is a lower bound of the row's k-th
/// largest value: k sets hold an element at least that large. NaN only raises the true value. So
/// whatever is below is out, and few columns stay to be ordered.
float lower_bound(const float* row, std::int64_t cols, std::int64_t k, TopKScratch& scratch) {
  const std::int64_t groups = (4 * k + 15) / 16 * 16;
  if (cols < 2 * groups) return -std::numeric_limits<float>::infinity();
  scratch.maxima.resize(static_cast<std::size_t>(groups));
  group_maxima(row, cols, groups, scratch.maxima.data());
  const auto kth = scratch.maxima.begin() + (k - 1);
  std::nth_element(scratch.maxima.begin(), kth, scratch.maxima.end(), std::greater<>());
  return *kth;
}

/// Leaves the row's k best entries, best first, at the front of scratch.entries.
void select_row(const float* row, std::int64_t cols, std::int64_t k, TopKScratch& scratch) {
  scratch.entries.resize(static_cast<std::size_t>(cols));
  const float bound = lower_bound(row, cols, k, scratch);
  const std::int64_t count = collect(row, cols, bound, scratch.entries.data());
  const auto begin = scratch.entries.begin();
  if (count > k) std::nth_element(begin, begin + k, begin + count, std::greater<>());
  std::sort(begin, begin + k, std::greater<>());
}

}  // namespace

void topk_cpu(std::int64_t rows, std::int64_t cols, std::int64_t k, const float* pre_acts,
              float* values, std::int32_t* indices) {
  parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    TopKScratch scratch;
    for (std::int64_t r = begin; r < end; ++r) {
      const float* row = pre_acts + r * cols;
      select_row(row, cols, k, scratch);
      for (std::int64_t j = 0; j < k; ++j) {
        const std::int32_t index = topk_index(scratch.entries[static_cast<std::size_t>(j)]);
        indices[r * k + j] = index;
        values[r * k + j] = row[index];
      }
    }
  });
}

void topk_masked_cpu(std::int64_t rows, std::int64_t cols, std::int64_t k, const float* pre_acts,
                     const std::uint8_t* mask, float* values, std::int32_t* indices) {
  std::vector<std::int32_t> open;
  for (std::int64_t c = 0; c < cols; ++c) {
    if (mask[c] != 0) open.push_back(static_cast<std::int32_t>(c));
  }
  const auto n_open = static_cast<std::int64_t>(open.size());
  check_open_columns(k, n_open, cols);
  parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    TopKScratch scratch;
    std::vector<float> packed(open.size());
    for (std::int64_t r = begin; r < end; ++r) {
      const float* row = pre_acts + r * cols;
      for (std::size_t i = 0; i < open.size(); ++i) packed[i] = row[open[i]];
      select_row(packed.data(), n_open, k, scratch);
      for (std::int64_t j = 0; j < k; ++j) {
        const std::int32_t place = topk_index(scratch.entries[static_cast<std::size_t>(j)]);
        indices[r * k + j] = open[static_cast<std::size_t>(place)];
        values[r * k + j] = packed[static_cast<std::size_t>(place)];
      }
    }
  });
}

}  // namespace thresher::kernels::detail
