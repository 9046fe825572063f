#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace thresher::host_model {

/// What a query may not see as an additive mask [n_contexts, 1, context_tokens, context_tokens]
/// float32: 0 where key and query are of one document, the key stands not after the query and,
/// with a `window` above 0, less than `window` tokens before it; -inf elsewhere. `documents` is
/// int64 [n_contexts, context_tokens].
at::Tensor make_attention_mask(const at::Tensor& documents, std::int64_t window = 0);

/// Softmax attention of every context by itself. `qkv` is [n_contexts * context_tokens, (n_heads +
/// 2 n_kv_heads) d_head] with rotary already applied, of the mask's type; query head h reads key
/// and value head h / (n_heads / n_kv_heads). Returns [n_contexts * context_tokens, n_heads *
/// d_head].
at::Tensor attend(const at::Tensor& qkv, const at::Tensor& mask, std::int64_t n_heads,
                  std::int64_t n_kv_heads, std::int64_t d_head);

}  // namespace thresher::host_model
