#include "host_model/gguf_model.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <array>
#include <utility>

#include "core/error.h"
#include "host_model/store_values.h"

namespace thresher::host_model {
namespace {

// What Llama used before files named it.
constexpr double kDefaultRopeBase = 10'000;
constexpr const char* kRopeDivisors = "rope_freqs.weight";

/// Part of a tensor's name in transformers and in GGUF.
struct NamePair {
  std::string_view theirs;
  std::string_view gguf;
};
constexpr std::array<NamePair, 3> kNames = {{{"model.embed_tokens.weight", "token_embd.weight"},
                                             {"model.norm.weight", "output_norm.weight"},
                                             {"lm_head.weight", "output.weight"}}};
constexpr std::array<NamePair, 9> kBlockNames = {{{"input_layernorm", "attn_norm"},
                                                  {"self_attn.q_proj", "attn_q"},
                                                  {"self_attn.k_proj", "attn_k"},
                                                  {"self_attn.v_proj", "attn_v"},
                                                  {"self_attn.o_proj", "attn_output"},
                                                  {"post_attention_layernorm", "ffn_norm"},
                                                  {"mlp.gate_proj", "ffn_gate"},
                                                  {"mlp.up_proj", "ffn_up"},
                                                  {"mlp.down_proj", "ffn_down"}}};

[[noreturn]] void refuse(const GgufFile& file, std::string_view problem,
                         std::string_view expected) {
  throw DataError(fmt::format("{}: {}", file.path().string(), problem), expected);
}

/// model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight
std::string gguf_name(std::string_view name) {
  for (const NamePair& pair : kNames) {
    if (name == pair.theirs) return std::string(pair.gguf);
  }
  constexpr std::string_view kPrefix = "model.layers.";
  THRESHER_CHECK(name.starts_with(kPrefix), "no GGUF name for a tensor");
  name.remove_prefix(kPrefix.size());
  const std::size_t dot = name.find('.');
  const std::size_t last_dot = name.rfind('.');
  const std::string_view part = name.substr(dot + 1, last_dot - dot - 1);
  for (const NamePair& pair : kBlockNames) {
    if (part == pair.theirs) {
      return fmt::format("blk.{}.{}{}", name.substr(0, dot), pair.gguf, name.substr(last_dot));
    }
  }
  THRESHER_CHECK(false, "no GGUF name for a tensor of a block");
  return {};
}

/// Typed, range-checked metadata of one architecture.
class Metadata {
 public:
  Metadata(const GgufFile& file, const std::string& architecture)
      : file_(file), where_(file.path().string()), prefix_(architecture + ".") {}

  bool has(const char* key) const { return file_.has(prefix_ + key); }
  std::string name(const char* key) const { return prefix_ + key; }
  std::int64_t integer(const char* key, const IntegerRange& range) const {
    return in_range(where_, prefix_ + key, file_.integer(prefix_ + key), range);
  }
  std::int64_t integer_or(const char* key, const IntegerRange& range, std::int64_t fallback) const {
    return has(key) ? integer(key, range) : fallback;
  }
  double number(const char* key, const NumberRange& range) const {
    return in_range(where_, prefix_ + key, file_.number(prefix_ + key), range);
  }
  const std::string& string(const char* key) const { return file_.string(prefix_ + key); }
  const std::string& where() const { return where_; }
  /// Refuses a value that differs from what is computed here.
  void expect(const char* key, const IntegerRange& range, std::int64_t value,
              std::string_view meaning) const {
    if (const std::int64_t found = integer_or(key, range, value); found != value) {
      refuse(file_, fmt::format("{} = {}", name(key), found), fmt::format("{} {}", meaning, value));
    }
  }

 private:
  const GgufFile& file_;
  std::string where_;
  std::string prefix_;
};

std::int64_t vocabulary_size(const GgufFile& file, const Metadata& metadata) {
  const std::int64_t rows = file.at("token_embd.weight").shape.front();
  if (rows > limits::kVocabulary.max) {
    refuse(file, fmt::format("token_embd.weight has {} rows", rows),
           fmt::format("at most {}", limits::kVocabulary.max));
  }
  if (const auto size = metadata.integer_or("vocab_size", limits::kVocabulary, rows);
      size != rows) {
    refuse(file,
           fmt::format("{} = {}, but token_embd.weight has {} rows", metadata.name("vocab_size"),
                       size, rows),
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

RopeScaling read_rope_scaling(const GgufFile& file, const Metadata& metadata, std::int64_t d_head) {
  RopeScaling scaling;
  const std::string type = metadata.has("rope.scaling.type") ? metadata.string("rope.scaling.type")
                                                             : std::string("none");
  if (type == "linear") {
    scaling.type = RopeScaling::Type::kLinear;
    scaling.factor = metadata.number("rope.scaling.factor", limits::kRopeFactor);
  } else if (type != "none") {
    refuse(file, fmt::format("{} = {}", metadata.name("rope.scaling.type"), type),
           "none or linear, or a tensor rope_freqs.weight");
  }
  const GgufTensor* divisors = file.find(kRopeDivisors);
  if (divisors == nullptr) return scaling;
  if (type != "none") {
    refuse(
        file,
        fmt::format("{} beside {} = {}", kRopeDivisors, metadata.name("rope.scaling.type"), type),
        "one way of scaling rotary positions");
  }
  if (divisors->shape != std::vector<std::int64_t>{d_head / 2}) {
    refuse(file,
           fmt::format("tensor {} has shape [{}]", kRopeDivisors, fmt::join(divisors->shape, ", ")),
           fmt::format("[{}]", d_head / 2));
  }
  scaling.type = RopeScaling::Type::kDivisors;
  scaling.divisors = file.read_float32(*divisors);
  for (const float divisor : scaling.divisors) {
    in_range(metadata.where(), kRopeDivisors, static_cast<double>(divisor), {1e-6, 1e6});
  }
  return scaling;
}

/// The biases that block 0 has; that all others have them too shows when they are read.
void read_biases(const GgufFile& file, TransformerShape& shape) {
  shape.has_qkv_bias = file.find("blk.0.attn_q.bias") != nullptr;
  shape.has_attn_out_bias = file.find("blk.0.attn_output.bias") != nullptr;
  shape.has_mlp_bias = file.find("blk.0.ffn_gate.bias") != nullptr;
}

}  // namespace

TransformerShape read_gguf_shape(const GgufFile& file, const std::string& architecture) {
  const Metadata metadata(file, architecture);
  TransformerShape shape;
  shape.n_blocks = metadata.integer("block_count", limits::kBlocks);
  shape.d_model = metadata.integer("embedding_length", limits::kModelWidth);
  shape.n_heads = metadata.integer("attention.head_count", limits::kHeads);
  shape.n_kv_heads = metadata.integer_or("attention.head_count_kv", limits::kHeads, shape.n_heads);
  shape.d_mlp = metadata.integer("feed_forward_length", limits::kMlpWidth);
  shape.max_context_tokens = metadata.integer("context_length", limits::kContextTokens);
  shape.norm_epsilon = metadata.number("attention.layer_norm_rms_epsilon", limits::kNormEpsilon);
  shape.rope_base = metadata.has("rope.freq_base")
                        ? metadata.number("rope.freq_base", limits::kRopeBase)
                        : kDefaultRopeBase;
  shape.n_vocabulary = vocabulary_size(file, metadata);
  shape.d_head = metadata.integer_or("attention.key_length", limits::kHeadWidth, 0);
  complete_shape(metadata.where(), shape);
  metadata.expect("rope.dimension_count", limits::kHeadWidth, shape.d_head, "the head's width");
  metadata.expect("attention.value_length", limits::kHeadWidth, shape.d_head, "the key's width");
  metadata.expect("expert_count", {0, 1 << 20}, 0, "a model without experts, that is");
  shape.rope_scaling = read_rope_scaling(file, metadata, shape.d_head);
  if (metadata.has("attention.sliding_window")) {
    const std::int64_t window =
        metadata.integer("attention.sliding_window", {0, limits::kContextTokens.max});
    shape.attention_windows.assign(static_cast<std::size_t>(shape.n_blocks), window);
  }
  shape.is_tied = file.find("output.weight") == nullptr;
  read_biases(file, shape);
  return shape;
}

GgufWeights::GgufWeights(const GgufFile& file, const TransformerShape& shape,
                         std::string architecture, RotaryRows rows)
    : file_(file), shape_(shape), architecture_(std::move(architecture)), rows_(rows) {}

bool GgufWeights::has(const std::string& name) const {
  return file_.find(gguf_name(name)) != nullptr;
}

void GgufWeights::check(const std::string& name, const std::vector<std::int64_t>& shape) const {
  const GgufTensor& stored = file_.at(gguf_name(name));
  if (stored.shape == shape) return;
  refuse(file_, fmt::format("tensor {} has shape [{}]", stored.name, fmt::join(stored.shape, ", ")),
         fmt::format("[{}]", fmt::join(shape, ", ")));
}

void GgufWeights::read(const std::string& name, at::Tensor out) {
  const GgufTensor& stored = file_.at(gguf_name(name));
  read_.insert(stored.name);
  const bool is_query = name.find(".q_proj.") != std::string::npos;
  const bool is_key = name.find(".k_proj.") != std::string::npos;
  const bool is_paired = rows_ == RotaryRows::kPairs && (is_query || is_key);
  at::Tensor values = is_paired ? at::empty_like(out) : out;
  std::int64_t done = 0;
  file_.read_float32(stored, [&](std::span<const float> piece) {
    store_values(piece, done, values);
    done += static_cast<std::int64_t>(piece.size());
  });
  if (!is_paired) return;
  // Rows i, p of a head stand at 2 i + p and belong at p d_head / 2 + i.
  const std::int64_t n_heads = is_query ? shape_.n_heads : shape_.n_kv_heads;
  const at::Tensor pairs = values.view({n_heads, shape_.d_head / 2, 2, -1});
  out.copy_(pairs.transpose(1, 2).reshape(out.sizes()));
}

void GgufWeights::check_all_read() const {
  for (const GgufTensor& tensor : file_.tensors()) {
    if (read_.contains(tensor.name) || tensor.name == kRopeDivisors) continue;
    refuse(file_,
           fmt::format("tensor {} is not part of the {} family as computed here", tensor.name,
                       architecture_),
           "token_embd, output_norm, output, rope_freqs and, in each block, attn_norm, attn_q, "
           "attn_k, "
           "attn_v, attn_output, ffn_norm, ffn_gate, ffn_up, ffn_down");
  }
}

}  // namespace thresher::host_model
