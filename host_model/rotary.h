#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace thresher::host_model {

/// Cosines and sines of rotary positions, both [tokens, d_head / 2] float32, computed in float32 in
/// the order that `transformers` uses: angle = position * base^(-2 i / d_head).
struct RotaryTable {
  at::Tensor cosines;
  at::Tensor sines;
};

/// `positions` is int64, any shape.
RotaryTable make_rotary_table(const at::Tensor& positions, std::int64_t d_head, double base);

/// Rotates the first `n_rotated_heads` heads of every row of `qkv` [tokens, width] in place: value
/// i of a head pairs with value i + d_head / 2.
void apply_rotary(const RotaryTable& table, std::int64_t n_rotated_heads, std::int64_t d_head,
                  at::Tensor& qkv);

}  // namespace thresher::host_model
