#include "host_model/transformer_loading.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <utility>
#include <vector>

#include "host_model/transformer.h"

namespace thresher::host_model {
namespace {

constexpr const char* kUnembedding = "lm_head.weight";

class Loader {
 public:
  Loader(const TransformerShape& shape, WeightSource& source, Dtype dtype)
      : shape_(shape),
        source_(source),
        scalar_type_(dtype == Dtype::kBfloat16 ? at::kBFloat16 : at::kFloat) {}

  TransformerWeights weights() {
    TransformerWeights weights;
    weights.embedding = read("model.embed_tokens.weight", {shape_.n_vocabulary, shape_.d_model});
    for (std::int64_t block = 0; block < shape_.n_blocks; ++block) {
      prefix_ = fmt::format("model.layers.{}.", block);
      weights.blocks.push_back(this->block());
    }
    prefix_.clear();
    weights.final_norm = read("model.norm.weight", {shape_.d_model});
    weights.unembedding = unembedding(weights.embedding);
    return weights;
  }

 private:
  /// A part and the number of its rows.
  using Parts = std::vector<std::pair<const char*, std::int64_t>>;

  at::Tensor read(const std::string& name, const std::vector<std::int64_t>& sizes) {
    source_.check(prefix_ + name, sizes);
    const at::Tensor tensor = at::empty(sizes, scalar_type_);
    source_.read(prefix_ + name, tensor);
    return tensor;
  }

  /// The parts' weights [rows, columns] or biases [rows], one below the other.
  at::Tensor stacked(const Parts& parts, const char* kind, std::vector<std::int64_t> sizes) {
    std::int64_t all_rows = 0;
    for (const auto& [name, rows] : parts) {
      sizes[0] = rows;
      source_.check(fmt::format("{}{}.{}", prefix_, name, kind), sizes);
      all_rows += rows;
    }
    sizes[0] = all_rows;
    const at::Tensor tensor = at::empty(sizes, scalar_type_);
    std::int64_t first = 0;
    for (const auto& [name, rows] : parts) {
      source_.read(fmt::format("{}{}.{}", prefix_, name, kind), tensor.narrow(0, first, rows));
      first += rows;
    }
    return tensor;
  }

  at::Tensor weight(const Parts& parts, std::int64_t columns) {
    return stacked(parts, "weight", {0, columns});
  }

  at::Tensor bias(const Parts& parts, bool is_there) {
    return is_there ? stacked(parts, "bias", {0}) : at::Tensor();
  }

  BlockWeights block() {
    const std::int64_t query_rows = shape_.n_heads * shape_.d_head;
    const std::int64_t kv_rows = shape_.n_kv_heads * shape_.d_head;
    const Parts qkv = {{"self_attn.q_proj", query_rows},
                       {"self_attn.k_proj", kv_rows},
                       {"self_attn.v_proj", kv_rows}};
    const Parts attn_out = {{"self_attn.o_proj", shape_.d_model}};
    const Parts gate_up = {{"mlp.gate_proj", shape_.d_mlp}, {"mlp.up_proj", shape_.d_mlp}};
    const Parts mlp_out = {{"mlp.down_proj", shape_.d_model}};
    BlockWeights weights;
    weights.attn_norm = read("input_layernorm.weight", {shape_.d_model});
    weights.qkv = weight(qkv, shape_.d_model);
    weights.qkv_bias = bias(qkv, shape_.has_qkv_bias);
    weights.attn_out = weight(attn_out, query_rows);
    weights.attn_out_bias = bias(attn_out, shape_.has_attn_out_bias);
    weights.mlp_norm = read("post_attention_layernorm.weight", {shape_.d_model});
    weights.gate_up = weight(gate_up, shape_.d_model);
    weights.gate_up_bias = bias(gate_up, shape_.has_mlp_bias);
    weights.mlp_out = weight(mlp_out, shape_.d_mlp);
    weights.mlp_out_bias = bias(mlp_out, shape_.has_mlp_bias);
    return weights;
  }

  at::Tensor unembedding(const at::Tensor& embedding) {
    if (shape_.is_tied && !source_.has(kUnembedding)) return embedding;
    const at::Tensor own = read(kUnembedding, {shape_.n_vocabulary, shape_.d_model});
    // A file may hold the tied matrix twice; memory need not.
    return shape_.is_tied && at::equal(own, embedding) ? embedding : own;
  }

  const TransformerShape& shape_;
  WeightSource& source_;
  const at::ScalarType scalar_type_;
  std::string prefix_;
};

void move_to_gpu(TransformerWeights& weights) {
  const bool is_tied = weights.unembedding.is_same(weights.embedding);
  std::vector<at::Tensor*> tensors{&weights.embedding, &weights.final_norm};
  if (!is_tied) tensors.push_back(&weights.unembedding);
  for (BlockWeights& block : weights.blocks) {
    for (at::Tensor* tensor : {&block.attn_norm, &block.qkv, &block.qkv_bias, &block.attn_out,
                               &block.attn_out_bias, &block.mlp_norm, &block.gate_up,
                               &block.gate_up_bias, &block.mlp_out, &block.mlp_out_bias}) {
      if (tensor->defined()) tensors.push_back(tensor);
    }
  }
  for (at::Tensor* tensor : tensors) *tensor = tensor->to(at::kCUDA);
  if (is_tied) weights.unembedding = weights.embedding;
}

}  // namespace

std::unique_ptr<HostModel> load_transformer(const TransformerShape& shape, WeightSource& source,
                                            const LoadRequest& request) {
  const at::NoGradGuard no_grad;
  TransformerWeights weights = Loader(shape, source, request.dtype).weights();
  source.check_all_read();
  if (request.device == Device::kCuda) move_to_gpu(weights);
  return std::make_unique<Transformer>(request.info, shape, std::move(weights));
}

}  // namespace thresher::host_model
