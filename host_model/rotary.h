#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "core/dtype.h"
#include "host_model/transformer_shape.h"

namespace thresher::host_model {

/// The angle a position turns each pair of a head, [d_head / 2] float32, computed in float32 in the
/// order that `transformers` uses.
at::Tensor rotary_frequencies(std::int64_t d_head, double base, const RopeScaling& scaling);

/// Cosines and sines of rotary positions, both [tokens, d_head / 2] float32; angle = position *
/// frequency. For a model in bfloat16 they are rounded to it, as `transformers` does.
struct RotaryTable {
  at::Tensor cosines;
  at::Tensor sines;
};

/// `positions` is int64, any shape; `dtype` that of the model.
RotaryTable make_rotary_table(const at::Tensor& positions, const at::Tensor& frequencies,
                              Dtype dtype);

/// Rotates the first `n_rotated_heads` heads of every row of `qkv` [tokens, width] in place: value
/// i of a head pairs with value i + d_head / 2. `qkv` is float32 or bfloat16; bfloat16 is rounded
/// after each product and after the sum. On another device than the CPU it is
/// apply_rotary_by_operators.
void apply_rotary(const RotaryTable& table, std::int64_t n_rotated_heads, std::int64_t d_head,
                  at::Tensor& qkv);

/// The same by LibTorch's operators on any device, with the same rounding.
void apply_rotary_by_operators(const RotaryTable& table, std::int64_t n_rotated_heads,
                               std::int64_t d_head, at::Tensor& qkv);

}  // namespace thresher::host_model
