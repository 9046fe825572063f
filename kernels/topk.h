#pragma once

#include <cstdint>

#include "core/device.h"

namespace thresher::kernels {

/// Where a kernel runs. `stream` is a cudaStream_t on CUDA and ignored on the CPU.
struct Exec {
  Device device = Device::kCpu;
  void* stream = nullptr;
};

/// Keeps the `k` largest pre-activations of every row, largest first.
///
/// Equal values are ordered by latent index, lower first, on every device, so all backends return
/// the same indices. A NaN sorts above every number (so that it is seen, not hidden). -0 equals +0.
///
/// `pre_acts` [rows, cols] row-major; `values` and `indices` [rows, k]; all on `exec.device`.
/// InternalError unless 1 <= k <= cols; DeviceError if the device is not built in.
void topk(const Exec& exec, std::int64_t rows, std::int64_t cols, std::int64_t k,
          const float* pre_acts, float* values, std::int32_t* indices);

/// The same over the columns where `mask` [cols] is non-zero; InternalError if k exceeds their
/// number. To know that, the call waits for the stream on CUDA.
void topk_masked(const Exec& exec, std::int64_t rows, std::int64_t cols, std::int64_t k,
                 const float* pre_acts, const std::uint8_t* mask, float* values,
                 std::int32_t* indices);

}  // namespace thresher::kernels
