#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "host_model/host_model.h"

namespace thresher::host_model {

/// A decoder-only transformer of the pre-norm kind: RMSNorm, rotary positions (half-split),
/// grouped-query attention, gated MLP with SiLU, no biases.
struct TransformerShape {
  std::int64_t n_blocks = 0;
  std::int64_t d_model = 0;
  std::int64_t n_heads = 0;
  std::int64_t n_kv_heads = 0;
  std::int64_t d_head = 0;
  std::int64_t d_mlp = 0;
  std::int64_t n_vocabulary = 0;
  std::int64_t max_context_tokens = 0;
  double norm_epsilon = 0;
  double rope_base = 0;
};

/// Weights of one block, float32, [outputs, inputs].
struct BlockWeights {
  at::Tensor attn_norm;  // [d_model]
  at::Tensor qkv;        // [(n_heads + 2 n_kv_heads) d_head, d_model]: queries, keys, values
  at::Tensor attn_out;   // [d_model, n_heads d_head]
  at::Tensor mlp_norm;   // [d_model]
  at::Tensor gate_up;    // [2 d_mlp, d_model]: gate, up
  at::Tensor mlp_out;    // [d_model, d_mlp]
};

struct TransformerWeights {
  at::Tensor embedding;  // [n_vocabulary, d_model]
  std::vector<BlockWeights> blocks;
  at::Tensor final_norm;  // [d_model]
  at::Tensor
      unembedding;  // [n_vocabulary, d_model]; the same tensor as `embedding` where they are tied
};

struct Workspace;

/// The forward pass in float32 on the CPU. A token's bits depend on its context and, through the
/// blocking of the matrix products, possibly on the number of tokens in the batch; never on the
/// hooks asked for.
class Transformer : public HostModel {
 public:
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
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_workspaces_;
};

}  // namespace thresher::host_model
