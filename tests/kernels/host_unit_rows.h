#pragma once

#include <vector>

#include "kernels/detail/unit_rows_device.h"
#include "tests/kernels/host_block.h"

namespace thresher::kernels {

/// The launch of adam_unit_rows, thread by thread.
inline void update_unit_rows(const detail::UnitRowsTask& task) {
  constexpr std::uint32_t kThreads = 96;
  std::vector<double> sums(kThreads);
  HostBlock block(kThreads);
  for (std::int64_t row = 0; row < task.rows; row += kThreads / 32) {
    if (task.cols % 4 == 0) {
      detail::unit_rows_block<4>(block, task, row, sums.data());
    } else {
      detail::unit_rows_block<1>(block, task, row, sums.data());
    }
  }
}

/// The launch of parallel_components, whose results stay on the device.
template <class Store>
void row_components(std::int64_t rows, std::int64_t cols, const std::vector<float>& W,
                    const std::vector<float>& grad, Store store) {
  constexpr std::uint32_t kThreads = 64;
  std::vector<double> sums(3 * kThreads);
  HostBlock block(kThreads);
  for (std::int64_t row = 0; row < rows; row += kThreads / 32) {
    if (cols % 4 == 0) {
      detail::row_components_block<4>(block, rows, cols, row, W.data(), grad.data(), sums.data(),
                                      store);
    } else {
      detail::row_components_block<1>(block, rows, cols, row, W.data(), grad.data(), sums.data(),
                                      store);
    }
  }
}

}  // namespace thresher::kernels
