#pragma once

#include <cstdint>

#include "kernels/detail/device_code.h"

namespace thresher::kernels::detail {

constexpr std::int64_t kSumRows = 64;  // rows added in order

/// Column `col` of one block of rows.
THRESHER_DEVICE inline double column_block_sum(std::int64_t block, std::int64_t rows,
                                               std::int64_t cols, std::int64_t col,
                                               const float* coefficients, const float* values) {
  double sum = 0.0;
  const std::int64_t first = block * kSumRows;
  const std::int64_t end = first + kSumRows < rows ? first + kSumRows : rows;
  for (std::int64_t r = first; r < end; ++r) {
    const double coefficient = coefficients != nullptr ? coefficients[r] : 1.0;
    if (coefficient != 0.0) sum += coefficient * static_cast<double>(values[r * cols + col]);
  }
  return sum;
}

/// The tree over blocks, one column: `parts` [blocks, cols].
THRESHER_DEVICE inline double column_tree_sum(std::int64_t blocks, std::int64_t cols,
                                              std::int64_t col, const double* parts) {
  double waiting[64];
  int count = 0;
  for (std::int64_t block = 0; block < blocks; ++block) {
    double sum = parts[block * cols + col];
    for (std::int64_t b = block; (b & 1) != 0; b >>= 1) sum = waiting[--count] + sum;
    waiting[count++] = sum;
  }
  double sum = waiting[--count];
  while (count > 0) sum = waiting[--count] + sum;
  return sum;
}

constexpr std::int64_t kTreeGroup = 32;  // a power of two: whole groups are subtrees

THRESHER_BOTH constexpr std::int64_t tree_groups(std::int64_t blocks) {
  return (blocks + kTreeGroup - 1) / kTreeGroup;
}

/// The part of that tree over the blocks of one group.
THRESHER_DEVICE inline double column_group_sum(std::int64_t group, std::int64_t blocks,
                                               std::int64_t cols, std::int64_t col,
                                               const double* parts) {
  const std::int64_t first = group * kTreeGroup;
  const std::int64_t count = blocks - first < kTreeGroup ? blocks - first : kTreeGroup;
  return column_tree_sum(count, cols, col, parts + first * cols);
}

}  // namespace thresher::kernels::detail
