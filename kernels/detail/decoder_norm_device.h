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

constexpr std::uint32_t kSquareThreads = 256;  // a power of two
constexpr std::int64_t kSquaresPerBlock = 16 * kSquareThreads;

/// parts[index] = the sum of squares of values [index * kSquaresPerBlock, ...) of `count`: thread t
/// takes every kSquareThreads-th from t on, and the threads are added as a tree.
template <class Block>
THRESHER_DEVICE void square_sum_block(Block& block, std::int64_t index, std::int64_t count,
                                      const float* values, double* sums, double* parts) {
  const std::int64_t first = index * kSquaresPerBlock;
  const std::int64_t end = first + kSquaresPerBlock < count ? first + kSquaresPerBlock : count;
  block.each([&](std::uint32_t thread) {
    double sum = 0.0;
    for (std::int64_t i = first + thread; i < end; i += kSquareThreads) {
      const double value = values[i];
      sum += value * value;
    }
    sums[thread] = sum;
  });
  for (std::uint32_t half = kSquareThreads / 2; half >= 1; half /= 2) {
    block.each([&](std::uint32_t thread) {
      if (thread < half) sums[thread] += sums[thread + half];
    });
  }
  block.each([&](std::uint32_t thread) {
    if (thread == 0) parts[index] = sums[0];
  });
}

/// From dot(W, W), dot(W, grad) and dot(grad, grad) of a row, see parallel_components.
THRESHER_DEVICE inline double parallel_factor(double weight_squares, double dot) {
  return weight_squares == 0.0 ? 0.0 : dot / weight_squares;
}
THRESHER_DEVICE inline double perpendicular_squares(double weight_squares, double dot,
                                                    double squares) {
  if (weight_squares == 0.0) return squares;
  const double left = squares - dot * dot / weight_squares;
  return left < 0.0 ? 0.0 : left;  // NaN passes
}

/// `sums` has room for three numbers a thread. Calls store(row, factor, squares) once a row.
template <class Block, class Store>
THRESHER_DEVICE void parallel_components_block(Block& block, const RowGroup& group, const float* W,
                                               const float* grad, double* sums, Store store) {
  double* dots = sums + block.threads();
  double* squares = dots + block.threads();
  // One walk over both rows, each sum in the order of row_dots_block.
  block.each([&](std::uint32_t thread) {
    const std::int64_t row = group.row_of(thread);
    double weight_sum = 0.0, dot_sum = 0.0, square_sum = 0.0;
    if (row < group.rows) {
      for (std::int64_t c = thread % kRowLanes; c < group.cols; c += kRowLanes) {
        const double weight = W[row * group.cols + c], slope = grad[row * group.cols + c];
        weight_sum += weight * weight;
        dot_sum += weight * slope;
        square_sum += slope * slope;
      }
    }
    sums[thread] = weight_sum;
    dots[thread] = dot_sum;
    squares[thread] = square_sum;
  });
  for (std::uint32_t half = kRowLanes / 2; half >= 1; half /= 2) {
    block.each([&](std::uint32_t thread) {
      if (thread % kRowLanes >= half) return;
      sums[thread] += sums[thread + half];
      dots[thread] += dots[thread + half];
      squares[thread] += squares[thread + half];
    });
  }
  block.each([&](std::uint32_t thread) {
    const std::int64_t row = group.row_of(thread);
    if (thread % kRowLanes != 0 || row >= group.rows) return;
    store(row, parallel_factor(sums[thread], dots[thread]),
          perpendicular_squares(sums[thread], dots[thread], squares[thread]));
  });
}

}  // namespace thresher::kernels::detail
