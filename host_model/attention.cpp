#include "host_model/attention.h"

#include <ATen/ATen.h>

#include <limits>

namespace thresher::host_model {

at::Tensor make_attention_mask(const at::Tensor& documents, const at::Tensor& positions,
                               std::int64_t n_queries, std::int64_t window) {
  const std::int64_t n_keys = documents.size(1);
  const auto of_queries = [&](const at::Tensor& of_keys) {
    return of_keys.narrow(1, n_keys - n_queries, n_queries).unsqueeze(2);
  };
  at::Tensor visible = of_queries(documents).eq(documents.unsqueeze(1));
  visible.logical_and_(at::ones({n_queries, n_keys}, at::kBool).tril_(n_keys - n_queries));
  if (window > 0) {
    visible.logical_and_((of_queries(positions) - positions.unsqueeze(1)).lt(window));
  }
  const at::Tensor mask = at::full({documents.size(0), n_queries, n_keys},
                                   -std::numeric_limits<float>::infinity(), at::kFloat);
  return mask.masked_fill_(visible, 0.0).unsqueeze(1);
}

Heads split_heads(const at::Tensor& qkv, std::int64_t n_contexts, std::int64_t n_heads,
                  std::int64_t n_kv_heads, std::int64_t d_head) {
  const at::Tensor heads =
      qkv.view({n_contexts, qkv.size(0) / n_contexts, n_heads + 2 * n_kv_heads, d_head})
          .transpose(1, 2);
  return {heads.narrow(1, 0, n_heads), heads.narrow(1, n_heads, n_kv_heads),
          heads.narrow(1, n_heads + n_kv_heads, n_kv_heads)};
}

at::Tensor attend(const Heads& heads, const at::Tensor& mask) {
  const at::Tensor mixed = at::scaled_dot_product_attention(
      heads.queries, heads.keys, heads.values, mask, /*dropout_p=*/0.0, /*is_causal=*/false,
      /*scale=*/std::nullopt, /*enable_gqa=*/heads.queries.size(1) != heads.keys.size(1));
  return mixed.transpose(1, 2).reshape(
      {mixed.size(0) * mixed.size(2), mixed.size(1) * mixed.size(3)});
}

}  // namespace thresher::host_model
