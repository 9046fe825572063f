#include <gtest/gtest.h>

#include "core/error.h"
#include "host_model/host_model.h"
#include "tests/host_model/tiny_llama.h"

namespace thresher::host_model {
namespace {

using testing::GgufBuilder;
using testing::raw;
using testing::TemporaryFile;
using testing::tiny_llama;

/// What loading `file` says, first line without the file's name.
std::string verdict(const GgufBuilder& file) {
  const TemporaryFile stored(file.bytes());
  try {
    load_host_model({.weights = stored.path().string()});
  } catch (const Error& error) {
    return error.first_line().substr(stored.path().string().size() + 2);
  }
  return "accepted";
}

/// The tiny model with one metadata entry replaced, or added if it has none of that key.
GgufBuilder with(const std::string& key, std::uint32_t type, const std::string& payload) {
  GgufBuilder file = tiny_llama();
  const std::string start = testing::raw_string(key);
  std::erase_if(file.metadata, [&](const std::string& entry) { return entry.starts_with(start); });
  return file.entry(key, type, payload);
}

GgufBuilder with_integer(const std::string& key, std::uint32_t value) {
  return with(key, 4, raw(value));
}
GgufBuilder with_number(const std::string& key, float value) { return with(key, 6, raw(value)); }

GgufBuilder without_tensor(const std::string& name) {
  GgufBuilder file = tiny_llama();
  std::erase_if(file.tensors,
                [&](const GgufBuilder::Tensor& tensor) { return tensor.name == name; });
  return file;
}

TEST(Loading, FillsInWhatIsKnownAboutTheModel) {
  const TemporaryFile stored(tiny_llama().bytes());
  const auto model = load_host_model({.weights = stored.path().string()});
  EXPECT_EQ(model->info().family, "llama");
  EXPECT_EQ(model->info().fingerprint.size(), 64U);
  EXPECT_EQ(model->info().n_blocks, 3);
  EXPECT_EQ(model->info().d_model, 32);
  EXPECT_EQ(model->info().n_vocabulary, 50);
  EXPECT_EQ(model->info().max_context_tokens, 64);
  EXPECT_EQ(model->info().width(HookPoint::parse("blocks.2.hook_resid_post")), 32);
  EXPECT_EQ(model->info().dtype, Dtype::kFloat32);
  EXPECT_EQ(host_families(), (std::vector<std::string>{"llama", "mistral", "qwen2"}));
}

TEST(Loading, NamesTheFamiliesThatAreKnown) {
  const TemporaryFile stored(GgufBuilder().string("general.architecture", "gemma3").bytes());
  try {
    load_host_model({.weights = stored.path().string()});
    FAIL() << "expected ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.what(), stored.path().string() +
                                ": host family \"gemma3\" is not known\n  expected: one of: llama, "
                                "qwen2");
  }
  EXPECT_EQ(verdict(GgufBuilder()), "metadata 'general.architecture' is missing");
}

TEST(Loading, RefusesHyperParametersOutOfRange) {
  EXPECT_EQ(verdict(tiny_llama()), "accepted");
  EXPECT_EQ(verdict(with_integer("llama.block_count", 0)), "llama.block_count = 0");
  EXPECT_EQ(verdict(with_integer("llama.block_count", 513)), "llama.block_count = 513");
  EXPECT_EQ(verdict(with_integer("llama.embedding_length", 65'537)),
            "llama.embedding_length = 65537");
  EXPECT_EQ(verdict(with_integer("llama.attention.head_count", 0)),
            "llama.attention.head_count = 0");
  EXPECT_EQ(verdict(with_integer("llama.attention.head_count", 5)),
            "5 query heads and 2 key-value heads");
  EXPECT_EQ(verdict(with_integer("llama.attention.head_count_kv", 0)),
            "llama.attention.head_count_kv = 0");
  EXPECT_EQ(verdict(with_integer("llama.attention.head_count_kv", 3)),
            "4 query heads and 3 key-value heads");
  EXPECT_EQ(verdict(with_integer("llama.attention.head_count", 6)), "d_model 32 and 6 heads");
  EXPECT_EQ(verdict(with_integer("llama.attention.head_count", 32)), "heads of width 1");
  EXPECT_EQ(verdict(with_integer("llama.feed_forward_length", 2'000'000)),
            "llama.feed_forward_length = 2000000");
  EXPECT_EQ(verdict(with_integer("llama.context_length", 0)), "llama.context_length = 0");
  EXPECT_EQ(verdict(with_number("llama.attention.layer_norm_rms_epsilon", 0)),
            "llama.attention.layer_norm_rms_epsilon = 0");
  EXPECT_EQ(verdict(with_number("llama.attention.layer_norm_rms_epsilon", std::nanf(""))),
            "llama.attention.layer_norm_rms_epsilon = nan");
  EXPECT_EQ(verdict(with_number("llama.rope.freq_base", 0.5F)), "llama.rope.freq_base = 0.5");
}

TEST(Loading, RefusesWhatItWouldComputeWrongly) {
  EXPECT_EQ(verdict(with("llama.rope.scaling.type", 8, testing::raw_string("yarn"))),
            "llama.rope.scaling.type = yarn");
  EXPECT_EQ(verdict(with("llama.rope.scaling.type", 8, testing::raw_string("none"))), "accepted");
  EXPECT_EQ(verdict(with_integer("llama.rope.dimension_count", 4)),
            "llama.rope.dimension_count = 4");
  EXPECT_EQ(verdict(with_integer("llama.rope.dimension_count", 8)), "accepted");
  EXPECT_EQ(verdict(with_integer("llama.attention.value_length", 16)),
            "llama.attention.value_length = 16");
  EXPECT_EQ(verdict(with_integer("llama.expert_count", 8)), "llama.expert_count = 8");
  GgufBuilder with_norms = tiny_llama();
  with_norms.float32_tensor("blk.0.attn_q_norm.weight", {8}, std::vector<float>(8));
  EXPECT_EQ(verdict(with_norms),
            "tensor blk.0.attn_q_norm.weight is not part of the llama family as computed here");
  GgufBuilder some_biases = tiny_llama();
  some_biases.float32_tensor("blk.0.attn_q.bias", {32}, std::vector<float>(32));
  EXPECT_EQ(verdict(some_biases), "tensor 'blk.0.attn_k.bias' is missing");
}

TEST(Loading, ReadsScaledRotaryPositionsAndWindows) {
  GgufBuilder linear = with("llama.rope.scaling.type", 8, testing::raw_string("linear"));
  EXPECT_EQ(verdict(linear), "metadata 'llama.rope.scaling.factor' is missing");
  linear.float32("llama.rope.scaling.factor", 2.0F);
  EXPECT_EQ(verdict(linear), "accepted");
  GgufBuilder divided = tiny_llama();
  divided.float32_tensor("rope_freqs.weight", {4}, {1, 1, 2, 8});
  EXPECT_EQ(verdict(divided), "accepted");
  GgufBuilder wrong_width = tiny_llama();
  wrong_width.float32_tensor("rope_freqs.weight", {3}, {1, 1, 2});
  EXPECT_EQ(verdict(wrong_width), "tensor rope_freqs.weight has shape [3]");
  GgufBuilder zero = tiny_llama();
  zero.float32_tensor("rope_freqs.weight", {4}, {1, 1, 2, 0});
  EXPECT_EQ(verdict(zero), "rope_freqs.weight = 0");
  linear.float32_tensor("rope_freqs.weight", {4}, {1, 1, 2, 8});
  EXPECT_EQ(verdict(linear), "rope_freqs.weight beside llama.rope.scaling.type = linear");
  EXPECT_EQ(verdict(with_integer("llama.attention.sliding_window", 4)), "accepted");
}

TEST(Loading, RefusesVocabulariesThatDoNotFit) {
  EXPECT_EQ(verdict(with_integer("llama.vocab_size", 51)),
            "llama.vocab_size = 51, but token_embd.weight has 50 rows");
  GgufBuilder file = tiny_llama();
  file.strings("tokenizer.ggml.tokens", {"a", "b"});
  EXPECT_EQ(verdict(file), "2 tokens in the vocabulary, but token_embd.weight has 50 rows");
}

TEST(Loading, NamesTensorsThatAreMissingOrOfAnotherShape) {
  EXPECT_EQ(verdict(without_tensor("blk.2.ffn_up.weight")),
            "tensor 'blk.2.ffn_up.weight' is missing");
  EXPECT_EQ(verdict(without_tensor("output_norm.weight")),
            "tensor 'output_norm.weight' is missing");
  EXPECT_EQ(verdict(without_tensor("output.weight")), "accepted");
  GgufBuilder file = without_tensor("blk.1.attn_k.weight");
  file.float32_tensor("blk.1.attn_k.weight", {32, 16}, std::vector<float>(512));
  EXPECT_EQ(verdict(file), "tensor blk.1.attn_k.weight has shape [32, 16]");
  EXPECT_EQ(verdict(with_integer("llama.feed_forward_length", 47)),
            "tensor blk.0.ffn_gate.weight has shape [48, 32]");
}

}  // namespace
}  // namespace thresher::host_model
