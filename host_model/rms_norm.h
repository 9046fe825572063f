#pragma once

#include <ATen/core/Tensor.h>

namespace thresher::host_model {

/// out = x / sqrt(mean(x^2) + epsilon) * weight, row by row; an undefined `weight` counts as ones.
/// x, weight and out are contiguous and of one type, float32 or bfloat16; x and out are [rows,
/// width] and may be the same tensor. Computed in float32; bfloat16 is rounded before and after the
/// weights, as `transformers` does. The sum runs over 16 lanes in a fixed order, so the bits depend
/// on the row alone.
/// On another device than the CPU it is rms_norm_by_operators.
void rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, at::Tensor& out);

/// The same by LibTorch's operators on any device: the order of the sum is LibTorch's.
void rms_norm_by_operators(const at::Tensor& x, const at::Tensor& weight, double epsilon,
                           at::Tensor& out);

}  // namespace thresher::host_model
