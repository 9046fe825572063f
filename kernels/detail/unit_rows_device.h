#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/detail/adam_element.h"
#include "kernels/detail/columns_device.h"
#include "kernels/detail/decoder_norm_device.h"
#include "kernels/detail/device_code.h"

// What an update does to the rows of the decoder, a warp a row: lane l takes kWidth neighbours of
// every 32 * kWidth from l * kWidth on, and the lanes' partial sums are added as a tree.

namespace thresher::kernels::detail {

/// sums[0] becomes the sum of a warp's 32 numbers.
template <class Warp>
THRESHER_DEVICE void add_up_warp(Warp& warp, double* sums) {
  for (std::uint32_t half = 16; half >= 1; half /= 2) {
    warp.each([&](std::uint32_t lane) {
      if (lane < half) sums[lane] += sums[lane + half];
    });
  }
}

/// The arguments of adam_unit_rows.
struct UnitRowsTask {
  std::int64_t rows, cols;
  AdamFactors factors;
  const float* gradient;
  const double* parallel;
  bool renormalises;
  float* weights;
  float* m;
  float* v;
  std::uint16_t* bfloat16;  // or null
};

/// Updates kWidth weights from element `i` on and returns the sum of their squares.
template <int kWidth>
THRESHER_DEVICE double update_columns(const UnitRowsTask& task, double parallel, std::int64_t i) {
  const auto slope = load_columns<kWidth>(task.gradient + i);
  auto weight = load_columns<kWidth>(task.weights + i);
  auto first = load_columns<kWidth>(task.m + i), second = load_columns<kWidth>(task.v + i);
  double squares = 0.0;
  THRESHER_UNROLL
  for (int e = 0; e < kWidth; ++e) {
    const float left = perpendicular_element(parallel, slope.at[e], weight.at[e]);
    adam_element(task.factors, left, weight.at[e], first.at[e], second.at[e]);
    squares += static_cast<double>(weight.at[e]) * static_cast<double>(weight.at[e]);
  }
  store_columns(task.weights + i, weight);
  store_columns(task.m + i, first);
  store_columns(task.v + i, second);
  return squares;
}

/// Multiplies kWidth weights and writes their copy.
template <int kWidth>
THRESHER_DEVICE void scale_columns(const UnitRowsTask& task, double scale, std::int64_t i) {
  auto weight = load_columns<kWidth>(task.weights + i);
  Columns<std::uint16_t, kWidth> copy;
  THRESHER_UNROLL
  for (int e = 0; e < kWidth; ++e) {
    if (task.renormalises) {
      weight.at[e] = static_cast<float>(static_cast<double>(weight.at[e]) * scale);
    }
    copy.at[e] = to_bfloat16(weight.at[e]);
  }
  if (task.renormalises) store_columns(task.weights + i, weight);
  if (task.bfloat16 != nullptr) store_columns(task.bfloat16 + i, copy);
}

/// The rows from first_row on, one a warp. `sums` has room for a number a thread. A lane reads
/// again what it has written itself, so nothing waits between its two walks but the sum.
template <int kWidth, class Block>
THRESHER_DEVICE void unit_rows_block(Block& block, const UnitRowsTask& task, std::int64_t first_row,
                                     double* sums) {
  block.each_warp([&](auto& warp, std::uint32_t index) {
    const std::int64_t row = first_row + index;
    if (row >= task.rows) return;
    double* of_warp = sums + 32 * index;
    warp.each([&](std::uint32_t lane) {
      double squares = 0.0;
      for (std::int64_t c = lane * kWidth; c < task.cols; c += 32 * kWidth) {
        squares += update_columns<kWidth>(task, task.parallel[row], row * task.cols + c);
      }
      of_warp[lane] = squares;
    });
    if (!task.renormalises && task.bfloat16 == nullptr) return;
    add_up_warp(warp, of_warp);
    warp.each([&](std::uint32_t lane) {
      // A zero row stays zero.
      const double scale = of_warp[0] == 0.0 ? 1.0 : 1.0 / sqrt(of_warp[0]);
      for (std::int64_t c = lane * kWidth; c < task.cols; c += 32 * kWidth) {
        scale_columns<kWidth>(task, scale, row * task.cols + c);
      }
    });
  });
}

/// The component of a row's gradient along the row: calls store(row, factor, squares) once a row.
/// `sums` has room for three numbers a thread.
template <int kWidth, class Block, class Store>
THRESHER_DEVICE void row_components_block(Block& block, std::int64_t rows, std::int64_t cols,
                                          std::int64_t first_row, const float* W, const float* grad,
                                          double* sums, Store store) {
  block.each_warp([&](auto& warp, std::uint32_t index) {
    const std::int64_t row = first_row + index;
    if (row >= rows) return;
    double* weight_squares = sums + 32 * index;
    double* dots = weight_squares + block.threads();
    double* squares = dots + block.threads();
    warp.each([&](std::uint32_t lane) {
      double weight_sum = 0.0, dot_sum = 0.0, square_sum = 0.0;
      for (std::int64_t c = lane * kWidth; c < cols; c += 32 * kWidth) {
        const auto weight = load_columns<kWidth>(W + row * cols + c);
        const auto slope = load_columns<kWidth>(grad + row * cols + c);
        THRESHER_UNROLL
        for (int e = 0; e < kWidth; ++e) {
          const double w = weight.at[e], g = slope.at[e];
          weight_sum += w * w;
          dot_sum += w * g;
          square_sum += g * g;
        }
      }
      weight_squares[lane] = weight_sum;
      dots[lane] = dot_sum;
      squares[lane] = square_sum;
    });
    add_up_warp(warp, weight_squares);
    add_up_warp(warp, dots);
    add_up_warp(warp, squares);
    warp.each([&](std::uint32_t lane) {
      if (lane != 0) return;
      store(row, parallel_factor(weight_squares[0], dots[0]),
            perpendicular_squares(weight_squares[0], dots[0], squares[0]));
    });
  });
}

}  // namespace thresher::kernels::detail
