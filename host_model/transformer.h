#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "host_model/host_model.h"
#include "host_model/transformer_shape.h"

namespace thresher::host_model {

/// Weights of one block, [outputs, inputs], float32 or bfloat16. Biases are undefined where the
/// shape has none.
struct BlockWeights {
  at::Tensor attn_norm;      // [d_model]
  at::Tensor qkv;            // [(n_heads + 2 n_kv_heads) d_head, d_model]: queries, keys, values
  at::Tensor qkv_bias;       // [(n_heads + 2 n_kv_heads) d_head]
  at::Tensor attn_out;       // [d_model, n_heads d_head]
  at::Tensor attn_out_bias;  // [d_model]
  at::Tensor mlp_norm;       // [d_model]
  at::Tensor gate_up;        // [2 d_mlp, d_model]: gate, up
  at::Tensor gate_up_bias;   // [2 d_mlp]
  at::Tensor mlp_out;        // [d_model, d_mlp]
  at::Tensor mlp_out_bias;   // [d_model]
};

/// All of one type: that of the forward pass.
struct TransformerWeights {
  at::Tensor embedding;  // [n_vocabulary, d_model]
  std::vector<BlockWeights> blocks;
  at::Tensor final_norm;  // [d_model]
  at::Tensor
      unembedding;  // [n_vocabulary, d_model]; the same tensor as `embedding` where they are tied
};

struct Workspace;

/// The forward pass in the type, and on the device, of the weights. In bfloat16 every operation
/// rounds where `transformers` in bfloat16 rounds; what hooks, callers and unembed see is float32
/// all the same, and replacements are rounded on the way back. A token's bits depend on its context
/// and, through the blocking of the matrix products, possibly on the number of tokens in the batch;
/// never on the hooks asked for.
class Transformer : public HostModel {
 public:
  /// `info` needs family and fingerprint; everything else comes from shape and weights.
  Transformer(HostModelInfo info, const TransformerShape& shape, TransformerWeights weights);
  ~Transformer() override;

  const HostModelInfo& info() const override { return info_; }
  at::Tensor forward(const TokenBatch& batch, const ForwardRequest& request) override;
  at::Tensor unembed(const at::Tensor& final_normalized) override;
  at::Tensor unembedding() const override;

 private:
  class Pass;

  std::unique_ptr<Workspace> take_workspace();
  void return_workspace(std::unique_ptr<Workspace> workspace);

  HostModelInfo info_;
  TransformerShape shape_;
  TransformerWeights weights_;
  at::Tensor rotary_frequencies_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_workspaces_;
};

}  // namespace thresher::host_model
