#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace thresher::host_model {

/// What queries may not see as an additive mask [n_contexts, 1, n_queries, context_tokens] float32:
/// 0 where key and query are of one document, the key stands not after the query in the context
/// and, with a `window` above 0, its position is less than `window` before the query's; -inf
/// elsewhere. Queries are the last `n_queries` tokens of each context. `documents` and `positions`
/// are int64 [n_contexts, context_tokens].
at::Tensor make_attention_mask(const at::Tensor& documents, const at::Tensor& positions,
                               std::int64_t n_queries, std::int64_t window = 0);

/// Heads of a pass, [n_contexts, n heads, tokens, d_head], views of its rows.
struct Heads {
  at::Tensor queries;  // n_heads
  at::Tensor keys;     // n_kv_heads
  at::Tensor values;   // n_kv_heads
};

/// `qkv` is [n_contexts * tokens, (n_heads + 2 n_kv_heads) d_head] with rotary already applied.
Heads split_heads(const at::Tensor& qkv, std::int64_t n_contexts, std::int64_t n_heads,
                  std::int64_t n_kv_heads, std::int64_t d_head);

/// Softmax attention of every context by itself, in the mask's type; query head h reads key and
/// value head h / (n_heads / n_kv_heads). There may be more keys than queries; the mask has a row a
/// query and a column a key. Returns [n_contexts * queries, n_heads * d_head].
at::Tensor attend(const Heads& heads, const at::Tensor& mask);

}  // namespace thresher::host_model
