#include "host_model/attention.h"

#include <ATen/ATen.h>

#include <limits>

namespace thresher::host_model {

at::Tensor make_attention_mask(const at::Tensor& documents, std::int64_t window) {
  const std::int64_t n = documents.size(1);
  at::Tensor visible = documents.unsqueeze(2).eq(documents.unsqueeze(1));
  visible.logical_and_(at::ones({n, n}, at::kBool).tril_());
  if (window > 0) visible.logical_and_(at::ones({n, n}, at::kBool).triu_(1 - window));
  const at::Tensor mask =
      at::full({documents.size(0), n, n}, -std::numeric_limits<float>::infinity(), at::kFloat);
  return mask.masked_fill_(visible, 0.0).unsqueeze(1);
}

at::Tensor attend(const at::Tensor& qkv, const at::Tensor& mask, std::int64_t n_heads,
                  std::int64_t n_kv_heads, std::int64_t d_head) {
  const std::int64_t n_contexts = mask.size(0);
  const std::int64_t context_tokens = mask.size(2);
  const at::Tensor heads =
      qkv.view({n_contexts, context_tokens, n_heads + 2 * n_kv_heads, d_head}).transpose(1, 2);
  const at::Tensor queries = heads.narrow(1, 0, n_heads);
  const at::Tensor keys = heads.narrow(1, n_heads, n_kv_heads);
  const at::Tensor values = heads.narrow(1, n_heads + n_kv_heads, n_kv_heads);
  const at::Tensor mixed =
      at::scaled_dot_product_attention(queries, keys, values, mask, /*dropout_p=*/0.0,
                                       /*is_causal=*/false, /*scale=*/std::nullopt,
                                       /*enable_gqa=*/n_heads != n_kv_heads);
  return mixed.transpose(1, 2).reshape({n_contexts * context_tokens, n_heads * d_head});
}

}  // namespace thresher::host_model
