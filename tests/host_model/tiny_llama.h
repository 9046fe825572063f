#pragma once

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "host_model/host_model.h"
#include "tests/core/gguf_builder.h"

namespace thresher::testing {

/// Dimensions of a random Llama; every width differs so that mixed-up shapes show.
struct TinyLlama {
  std::int64_t n_blocks = 3;
  std::int64_t d_model = 32;
  std::int64_t n_heads = 4;
  std::int64_t n_kv_heads = 2;
  std::int64_t d_mlp = 48;
  std::int64_t n_vocabulary = 50;
  std::int64_t max_context_tokens = 64;
  bool is_tied = false;
};

/// Uniform values of the given spread around `centre`, the same in every run.
inline std::vector<float> random_values(std::int64_t count, float spread, float centre,
                                        std::uint64_t& state) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    value =
        centre + spread * (static_cast<float>(state >> 40) / static_cast<float>(1 << 23) - 1.0F);
  }
  return values;
}

inline GgufBuilder tiny_llama(const TinyLlama& shape = {}) {
  GgufBuilder file;
  const auto count = [](std::int64_t value) { return static_cast<std::uint32_t>(value); };
  file.string("general.architecture", "llama");
  file.uint32("llama.block_count", count(shape.n_blocks))
      .uint32("llama.embedding_length", count(shape.d_model));
  file.uint32("llama.attention.head_count", count(shape.n_heads));
  file.uint32("llama.attention.head_count_kv", count(shape.n_kv_heads));
  file.uint32("llama.feed_forward_length", count(shape.d_mlp));
  file.uint32("llama.context_length", count(shape.max_context_tokens));
  file.float32("llama.attention.layer_norm_rms_epsilon", 1e-5F)
      .float32("llama.rope.freq_base", 10'000.0F);
  std::uint64_t state = 1;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> sizes, float spread,
                       float centre = 0) {
    const std::int64_t values = sizes.size() == 1 ? sizes[0] : sizes[0] * sizes[1];
    file.float32_tensor(name + ".weight", std::move(sizes),
                        random_values(values, spread, centre, state));
  };
  const std::int64_t kv_width = shape.d_model / shape.n_heads * shape.n_kv_heads;
  add("token_embd", {shape.n_vocabulary, shape.d_model}, 1.0F);
  for (std::int64_t block = 0; block < shape.n_blocks; ++block) {
    const auto name = [&](const char* part) { return fmt::format("blk.{}.{}", block, part); };
    add(name("attn_norm"), {shape.d_model}, 0.2F, 1.0F);
    add(name("attn_q"), {shape.d_model, shape.d_model}, 0.4F);
    add(name("attn_k"), {kv_width, shape.d_model}, 0.4F);
    add(name("attn_v"), {kv_width, shape.d_model}, 0.3F);
    add(name("attn_output"), {shape.d_model, shape.d_model}, 0.3F);
    add(name("ffn_norm"), {shape.d_model}, 0.2F, 1.0F);
    add(name("ffn_gate"), {shape.d_mlp, shape.d_model}, 0.3F);
    add(name("ffn_up"), {shape.d_mlp, shape.d_model}, 0.3F);
    add(name("ffn_down"), {shape.d_model, shape.d_mlp}, 0.3F);
  }
  add("output_norm", {shape.d_model}, 0.2F, 1.0F);
  if (!shape.is_tied) add("output", {shape.n_vocabulary, shape.d_model}, 0.5F);
  return file;
}

inline std::unique_ptr<host_model::HostModel> load(const GgufBuilder& file,
                                                   const std::string& dtype = "float32") {
  const TemporaryFile stored(file.bytes());
  return host_model::load_host_model({.weights = stored.path().string(), .dtype = dtype});
}

/// Contexts of one document each, with given ids.
inline host_model::TokenBatch batch_of(const at::Tensor& token_ids) {
  const at::Tensor positions =
      at::arange(token_ids.size(1), at::kLong).expand_as(token_ids).contiguous();
  return {token_ids, positions, at::zeros_like(token_ids)};
}

/// [contexts, tokens] ids that go through the whole vocabulary.
inline at::Tensor some_ids(std::int64_t contexts, std::int64_t tokens,
                           std::int64_t n_vocabulary = 50) {
  return at::arange(contexts * tokens, at::kLong)
      .mul_(7)
      .add_(3)
      .remainder_(n_vocabulary)
      .view({contexts, tokens});
}

}  // namespace thresher::testing
