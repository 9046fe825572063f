#pragma once

#include <ATen/core/Tensor.h>

namespace thresher::host_model {

/// out = x / sqrt(mean(x^2) + epsilon) * weight, row by row; an undefined `weight` counts as ones.
/// x and out are contiguous float32 [rows, width] and may be the same tensor. The sum runs over 16
/// lanes in a fixed order, so the bits depend on the row alone.
void rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, at::Tensor& out);

}  // namespace thresher::host_model
