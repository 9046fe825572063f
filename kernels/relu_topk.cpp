#include "kernels/detail/relu_topk.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/detail/lanes.h"

namespace thresher::kernels::detail {
namespace {

// Positive floats are ordered as their bits are, and of whole numbers the compiler finds the
// largest with vectors.
struct Positives {
  std::int32_t count, largest_bits;
};

THRESHER_HOT Positives relu(std::int64_t count, float* row) {
  std::int32_t positive = 0, largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    std::int32_t bits;
    std::memcpy(&bits, row + i, sizeof(bits));
    bits = row[i] > 0 ? bits : 0;
    positive += static_cast<std::int32_t>(bits > 0);
    largest = bits > largest ? bits : largest;
    std::memcpy(row + i, &bits, sizeof(bits));
  }
  return {positive, largest};
}

THRESHER_HOT std::int64_t count_from(std::int64_t count, float bound, const float* row) {
  std::int32_t found = 0;
  for (std::int64_t i = 0; i < count; ++i) found += static_cast<std::int32_t>(row[i] >= bound);
  return found;
}

THRESHER_HOT void cut_below(std::int64_t count, float bound, float* row) {
  for (std::int64_t i = 0; i < count; ++i) row[i] = row[i] >= bound ? row[i] : 0.0f;
}

}  // namespace

void relu_topk(std::int64_t count, std::int64_t k, float* row) {
  const Positives positives = relu(count, row);
  if (positives.count <= k) return;
  // The largest bound that at least k values reach, by halving the interval of its bits: reached by
  // `low`, not by `high`.
  std::int32_t low = 1, high = positives.largest_bits + 1;
  std::int64_t kept = positives.count;
  while (kept > k && high - low > 1) {
    const std::int32_t middle = low + (high - low) / 2;
    const std::int64_t found = count_from(count, std::bit_cast<float>(middle), row);
    (found >= k ? low : high) = middle;
    if (found >= k) kept = found;
  }
  cut_below(count, std::bit_cast<float>(low), row);
  // What is too much are equal values: the last ones go.
  for (std::int64_t i = count - 1; kept > k; --i) {
    if (std::bit_cast<std::int32_t>(row[i]) != low) continue;
    row[i] = 0.0f;
    --kept;
  }
}

}  // namespace thresher::kernels::detail
