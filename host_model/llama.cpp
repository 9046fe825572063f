#include "host_model/llama.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"
#include "host_model/transformer.h"

namespace thresher::host_model {
namespace {

/// Every hyper-parameter that is read, with what is accepted.
struct IntegerLimit {
  const char* key;
  std::int64_t min;
  std::int64_t max;
};
constexpr IntegerLimit kBlockCount{"llama.block_count", 1, 512};
constexpr IntegerLimit kEmbeddingLength{"llama.embedding_length", 1, 65'536};
constexpr IntegerLimit kHeadCount{"llama.attention.head_count", 1, 1'024};
constexpr IntegerLimit kKvHeadCount{"llama.attention.head_count_kv", 1, 1'024};
constexpr IntegerLimit kKeyLength{"llama.attention.key_length", 2, 4'096};
constexpr IntegerLimit kValueLength{"llama.attention.value_length", 2, 4'096};
constexpr IntegerLimit kRopeDimensions{"llama.rope.dimension_count", 2, 4'096};
constexpr IntegerLimit kFeedForwardLength{"llama.feed_forward_length", 1, 1'048'576};
constexpr IntegerLimit kContextLength{"llama.context_length", 1, 16'777'216};
constexpr IntegerLimit kVocabularySize{"llama.vocab_size", 1, 4'194'304};

struct NumberLimit {
  const char* key;
  double min;
  double max;
};
constexpr NumberLimit kNormEpsilon{"llama.attention.layer_norm_rms_epsilon", 1e-12, 0.1};
constexpr NumberLimit kRopeBase{"llama.rope.freq_base", 1, 1e12};

// What Llama used before files named it.
constexpr double kDefaultRopeBase = 10'000;

[[noreturn]] void refuse(const GgufFile& file, std::string_view problem,
                         std::string_view expected) {
  throw DataError(fmt::format("{}: {}", file.path().string(), problem), expected);
}

std::int64_t checked(const GgufFile& file, const IntegerLimit& limit) {
  const std::int64_t value = file.integer(limit.key);
  if (value < limit.min || value > limit.max) {
    refuse(file, fmt::format("{} = {}", limit.key, value),
           fmt::format("{} to {}", limit.min, limit.max));
  }
  return value;
}

std::int64_t checked_or(const GgufFile& file, const IntegerLimit& limit, std::int64_t fallback) {
  return file.has(limit.key) ? checked(file, limit) : fallback;
}

double checked(const GgufFile& file, const NumberLimit& limit) {
  const double value = file.number(limit.key);
  if (!(value >= limit.min && value <= limit.max)) {
    refuse(file, fmt::format("{} = {}", limit.key, value),
           fmt::format("{} to {}", limit.min, limit.max));
  }
  return value;
}

std::int64_t vocabulary_size(const GgufFile& file) {
  const std::int64_t rows = file.at("token_embd.weight").shape.front();
  if (rows > kVocabularySize.max) {
    refuse(file, fmt::format("token_embd.weight has {} rows", rows),
           fmt::format("at most {}", kVocabularySize.max));
  }
  if (checked_or(file, kVocabularySize, rows) != rows) {
    refuse(file,
           fmt::format("{} = {}, but token_embd.weight has {} rows", kVocabularySize.key,
                       file.integer(kVocabularySize.key), rows),
           "the same number");
  }
  if (file.has("tokenizer.ggml.tokens")) {
    const auto tokens = static_cast<std::int64_t>(file.strings("tokenizer.ggml.tokens").size());
    if (tokens != rows) {
      refuse(file,
             fmt::format("{} tokens in the vocabulary, but token_embd.weight has {} rows", tokens,
                         rows),
             "the same number");
    }
  }
  return rows;
}

/// Refuses what would change the numbers and is not computed here.
void check_nothing_else_is_asked_for(const GgufFile& file, const TransformerShape& shape) {
  if (file.has("llama.rope.scaling.type") && file.string("llama.rope.scaling.type") != "none") {
    refuse(file,
           fmt::format("llama.rope.scaling.type = {}", file.string("llama.rope.scaling.type")),
           "no scaling of rotary positions");
  }
  if (checked_or(file, kRopeDimensions, shape.d_head) != shape.d_head) {
    refuse(file, fmt::format("{} = {}", kRopeDimensions.key, file.integer(kRopeDimensions.key)),
           fmt::format("the head's width {}", shape.d_head));
  }
  if (checked_or(file, kValueLength, shape.d_head) != shape.d_head) {
    refuse(file, fmt::format("{} = {}", kValueLength.key, file.integer(kValueLength.key)),
           fmt::format("the key's width {}", shape.d_head));
  }
  if (file.has("llama.expert_count") && file.integer("llama.expert_count") != 0) {
    refuse(file, fmt::format("llama.expert_count = {}", file.integer("llama.expert_count")),
           "a model without experts");
  }
}

TransformerShape read_shape(const GgufFile& file) {
  TransformerShape shape;
  shape.n_blocks = checked(file, kBlockCount);
  shape.d_model = checked(file, kEmbeddingLength);
  shape.n_heads = checked(file, kHeadCount);
  shape.n_kv_heads = checked_or(file, kKvHeadCount, shape.n_heads);
  shape.d_mlp = checked(file, kFeedForwardLength);
  shape.max_context_tokens = checked(file, kContextLength);
  shape.norm_epsilon = checked(file, kNormEpsilon);
  shape.rope_base = file.has(kRopeBase.key) ? checked(file, kRopeBase) : kDefaultRopeBase;
  shape.n_vocabulary = vocabulary_size(file);
  if (shape.n_heads % shape.n_kv_heads != 0) {
    refuse(file,
           fmt::format("{} query heads and {} key-value heads", shape.n_heads, shape.n_kv_heads),
           "a whole number of query heads for each key-value head");
  }
  if (!file.has(kKeyLength.key) && shape.d_model % shape.n_heads != 0) {
    refuse(file, fmt::format("d_model {} and {} heads", shape.d_model, shape.n_heads),
           "heads that divide d_model");
  }
  shape.d_head = checked_or(file, kKeyLength, shape.d_model / shape.n_heads);
  if (shape.d_head % 2 != 0)
    refuse(file, fmt::format("heads of width {}", shape.d_head), "an even width");
  check_nothing_else_is_asked_for(file, shape);
  return shape;
}

/// Turns named tensors into weights and remembers which were used.
class WeightReader {
 public:
  explicit WeightReader(const GgufFile& file) : file_(file) {}

  at::Tensor read(const std::string& name, const std::vector<std::int64_t>& shape) {
    const GgufTensor& stored = file_.at(name);
    if (stored.shape != shape) {
      refuse(file_, fmt::format("tensor {} has shape [{}]", name, fmt::join(stored.shape, ", ")),
             fmt::format("[{}]", fmt::join(shape, ", ")));
    }
    used_.insert(name);
    const std::vector<float> values = file_.read_float32(stored);
    at::Tensor tensor = at::empty(shape, at::kFloat);
    std::memcpy(tensor.mutable_data_ptr<float>(), values.data(), values.size() * sizeof(float));
    return tensor;
  }

  /// Files store queries and keys for rotary positions of neighbouring pairs (rows i, p of a head
  /// at 2 i + p); this puts them back to the halves (row p d_head / 2 + i) that the model was
  /// trained with.
  at::Tensor read_rotated(const std::string& name, std::int64_t n_heads, std::int64_t d_head,
                          std::int64_t d_model) {
    const at::Tensor pairs = read(name, {n_heads * d_head, d_model});
    return pairs.view({n_heads, d_head / 2, 2, d_model})
        .transpose(1, 2)
        .reshape({n_heads * d_head, d_model});
  }

  void check_all_used() const {
    for (const GgufTensor& tensor : file_.tensors()) {
      if (!used_.contains(tensor.name)) {
        refuse(
            file_,
            fmt::format("tensor {} is not part of the llama family as computed here", tensor.name),
            "token_embd, output_norm, output and, in each block, attn_norm, attn_q, attn_k, "
            "attn_v, attn_output, "
            "ffn_norm, ffn_gate, ffn_up, ffn_down");
      }
    }
  }

 private:
  const GgufFile& file_;
  std::set<std::string, std::less<>> used_;
};

BlockWeights read_block(WeightReader& reader, const TransformerShape& shape, std::int64_t block) {
  const auto name = [&](const char* part) { return fmt::format("blk.{}.{}.weight", block, part); };
  const std::int64_t query_width = shape.n_heads * shape.d_head;
  const std::int64_t kv_width = shape.n_kv_heads * shape.d_head;
  BlockWeights weights;
  weights.attn_norm = reader.read(name("attn_norm"), {shape.d_model});
  weights.qkv =
      at::cat({reader.read_rotated(name("attn_q"), shape.n_heads, shape.d_head, shape.d_model),
               reader.read_rotated(name("attn_k"), shape.n_kv_heads, shape.d_head, shape.d_model),
               reader.read(name("attn_v"), {kv_width, shape.d_model})});
  weights.attn_out = reader.read(name("attn_output"), {shape.d_model, query_width});
  weights.mlp_norm = reader.read(name("ffn_norm"), {shape.d_model});
  weights.gate_up = at::cat({reader.read(name("ffn_gate"), {shape.d_mlp, shape.d_model}),
                             reader.read(name("ffn_up"), {shape.d_mlp, shape.d_model})});
  weights.mlp_out = reader.read(name("ffn_down"), {shape.d_model, shape.d_mlp});
  return weights;
}

std::int64_t bytes_of(const TransformerWeights& weights) {
  std::int64_t bytes = weights.embedding.nbytes() + weights.final_norm.nbytes();
  if (!weights.unembedding.is_same(weights.embedding)) bytes += weights.unembedding.nbytes();
  for (const BlockWeights& block : weights.blocks) {
    for (const at::Tensor& tensor : {block.attn_norm, block.qkv, block.attn_out, block.mlp_norm,
                                     block.gate_up, block.mlp_out}) {
      bytes += tensor.nbytes();
    }
  }
  return bytes;
}

}  // namespace

std::unique_ptr<HostModel> load_llama(const GgufFile& file, HostModelInfo info) {
  const at::NoGradGuard no_grad;
  const TransformerShape shape = read_shape(file);
  WeightReader reader(file);
  TransformerWeights weights;
  weights.embedding = reader.read("token_embd.weight", {shape.n_vocabulary, shape.d_model});
  for (std::int64_t block = 0; block < shape.n_blocks; ++block) {
    weights.blocks.push_back(read_block(reader, shape, block));
  }
  weights.final_norm = reader.read("output_norm.weight", {shape.d_model});
  weights.unembedding = file.find("output.weight") == nullptr
                            ? weights.embedding
                            : reader.read("output.weight", {shape.n_vocabulary, shape.d_model});
  reader.check_all_used();
  info.n_blocks = shape.n_blocks;
  info.d_model = shape.d_model;
  info.n_vocabulary = shape.n_vocabulary;
  info.max_context_tokens = shape.max_context_tokens;
  info.parameter_bytes = bytes_of(weights);
  return std::make_unique<Transformer>(std::move(info), shape, std::move(weights));
}

}  // namespace thresher::host_model
