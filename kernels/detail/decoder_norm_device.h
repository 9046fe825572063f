#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/detail/device_code.h"

// kRowLanes threads work on a row; element i belongs to thread i % kRowLanes and the partial sums
// are added as a tree: the order of dot_double in detail/lanes.h, so both give the same bits.

namespace thresher::kernels::detail {

constexpr std::uint32_t kRowLanes = 8;  // kDoubleLanes of detail/lanes.h

/// The rows of one block: thread t has row first_row + t / kRowLanes.
struct RowGroup {
  std::int64_t first_row;
  std::int64_t rows;
  std::int64_t cols;

  THRESHER_DEVICE std::int64_t row_of(std::uint32_t thread) const {
    return first_row + thread / kRowLanes;
  }
};

/// sums[t / kRowLanes * kRowLanes] = dot product of the row with its counterpart in `b`.
template <class Block>
THRESHER_DEVICE void row_dots_block(Block& block, const RowGroup& group, const float* a,
                                    const float* b, double* sums) {
  block.each([&](std::uint32_t thread) {
    const std::int64_t row = group.row_of(thread);
    double sum = 0.0;
    if (row < group.rows) {
      for (std::int64_t c = thread % kRowLanes; c < group.cols; c += kRowLanes) {
        const std::int64_t i = row * group.cols + c;
        sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
      }
    }
    sums[thread] = sum;
  });
  for (std::uint32_t half = kRowLanes / 2; half >= 1; half /= 2) {
    block.each([&](std::uint32_t thread) {
      if (thread % kRowLanes < half) sums[thread] += sums[thread + half];
    });
  }
}

/// Calls store(row, sum of squares) once a row.
template <class Block, class Store>
THRESHER_DEVICE void row_squares_block(Block& block, const RowGroup& group, const float* W,
                                       double* sums, Store store) {
  row_dots_block(block, group, W, W, sums);
  block.each([&](std::uint32_t thread) {
    const std::int64_t row = group.row_of(thread);
    if (thread % kRowLanes == 0 && row < group.rows) store(row, sums[thread]);
  });
}

template <class Block>
THRESHER_DEVICE void normalise_rows_block(Block& block, const RowGroup& group, double* sums,
                                          float* W) {
  row_dots_block(block, group, W, W, sums);
  block.each([&](std::uint32_t thread) {
    const std::int64_t row = group.row_of(thread);
    const double sum = sums[thread / kRowLanes * kRowLanes];
    if (row >= group.rows || sum == 0.0) return;
    const double scale = 1.0 / sqrt(sum);
    for (std::int64_t c = thread % kRowLanes; c < group.cols; c += kRowLanes) {
      float& weight = W[row * group.cols + c];
      weight = static_cast<float>(static_cast<double>(weight) * scale);
    }
  });
}

/// `sums` has room for two numbers a thread.
template <class Block>
THRESHER_DEVICE void remove_parallel_block(Block& block, const RowGroup& group, const float* W,
                                           double* sums, float* grad) {
  double* dots = sums + block.threads();
  row_dots_block(block, group, W, W, sums);
  row_dots_block(block, group, W, grad, dots);
  block.each([&](std::uint32_t thread) {
    const std::int64_t row = group.row_of(thread);
    const double sum = sums[thread / kRowLanes * kRowLanes];
    if (row >= group.rows || sum == 0.0) return;
    const double scale = dots[thread / kRowLanes * kRowLanes] / sum;
    for (std::int64_t c = thread % kRowLanes; c < group.cols; c += kRowLanes) {
      const std::int64_t i = row * group.cols + c;
      grad[i] =
          static_cast<float>(static_cast<double>(grad[i]) - scale * static_cast<double>(W[i]));
    }
  });
}

}  // namespace thresher::kernels::detail
