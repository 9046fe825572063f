#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace thresher::host_model {

/// Writes `values` at element `first` of a contiguous float32 or bfloat16 tensor, rounding to
/// nearest even.
void store_values(std::span<const float> values, std::int64_t first, at::Tensor& tensor);

}  // namespace thresher::host_model
