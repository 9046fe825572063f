#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "corpus/tokenizer.h"
#include "tests/core/gguf_builder.h"
#include "tests/corpus/small_vocabulary.h"

namespace thresher::corpus {
namespace {

using testing::GgufBuilder;
using testing::raw;
using testing::small_vocabulary;
using testing::TemporaryFile;

struct Metadata {
  std::string model = "gpt2";
  std::string pretokenizer = "smollm";
  bool with_merges = true;
  bool with_space_prefix = false;
  bool adds_bos = false;
};

std::string gguf_bytes(const Metadata& metadata) {
  const ByteLevelVocabulary vocabulary = small_vocabulary();
  std::string types;
  for (const std::int64_t type : vocabulary.token_types)
    types += raw(static_cast<std::int32_t>(type));
  GgufBuilder builder;
  builder.string("general.architecture", "llama")
      .string("tokenizer.ggml.model", metadata.model)
      .string("tokenizer.ggml.pre", metadata.pretokenizer)
      .strings("tokenizer.ggml.tokens", vocabulary.tokens)
      .array("tokenizer.ggml.token_type", 5, vocabulary.token_types.size(), types)
      .uint32("tokenizer.ggml.bos_token_id", testing::kEnd)
      .entry("tokenizer.ggml.add_space_prefix", 7,
             std::string(1, metadata.with_space_prefix ? 1 : 0));
  if (metadata.adds_bos) builder.entry("tokenizer.ggml.add_bos_token", 7, std::string(1, 1));
  if (metadata.with_merges) builder.strings("tokenizer.ggml.merges", vocabulary.merges);
  return builder.bytes();
}

std::string message_of(const Metadata& metadata) {
  const TemporaryFile file(gguf_bytes(metadata));
  try {
    load_gguf_tokenizer(file.path());
  } catch (const DataError& error) {
    std::string line = error.first_line();
    const std::string path = file.path().string();
    const std::size_t found = line.find(path);
    if (found != std::string::npos) line.replace(found, path.size(), "FILE");
    return line;
  }
  return "no error";
}

TEST(GgufTokenizer, IsWhatTheMetadataSay) {
  const TemporaryFile file(gguf_bytes({}));
  const auto tokenizer = load_gguf_tokenizer(file.path());
  EXPECT_EQ(tokenizer->encode("lower"), (std::vector<std::int32_t>{testing::kLow, testing::kEr}));
  EXPECT_EQ(tokenizer->bos_id(), testing::kEnd);
  EXPECT_EQ(tokenizer->eos_id(), std::nullopt);
  EXPECT_TRUE(tokenizer->is_special(testing::kEnd));
  EXPECT_EQ(tokenizer->vocabulary_size(), 263);
}

TEST(GgufTokenizer, KnowsWhetherTheModelPutsBosBeforeText) {
  const TemporaryFile without(gguf_bytes({})), with(gguf_bytes({.adds_bos = true}));
  EXPECT_FALSE(load_gguf_tokenizer(without.path())->adds_bos());
  EXPECT_TRUE(load_gguf_tokenizer(with.path())->adds_bos());
  EXPECT_EQ(load_gguf_tokenizer(with.path())->fingerprint(),
            load_gguf_tokenizer(without.path())->fingerprint());
}

TEST(GgufTokenizer, RefusesWhatItCannotDoExactly) {
  EXPECT_EQ(message_of({.model = "llama"}), "FILE: tokenizer model 'llama' is not supported");
  EXPECT_EQ(message_of({.pretokenizer = "qwen2"}), "FILE: pre-tokenizer 'qwen2' is not known");
  EXPECT_EQ(message_of({.with_space_prefix = true}),
            "FILE: tokenizer.ggml.add_space_prefix is true, which byte-level BPE does not support");
}

TEST(GgufTokenizer, NamesTheMissingKey) {
  EXPECT_NE(message_of({.with_merges = false}).find("tokenizer.ggml.merges"), std::string::npos);
}

TEST(GgufTokenizer, ListsThePreTokenizersItKnows) {
  const TemporaryFile file(gguf_bytes({.pretokenizer = "qwen2"}));
  try {
    load_gguf_tokenizer(file.path());
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("gpt-2, llama-bpe, smollm"), std::string::npos);
  }
}

}  // namespace
}  // namespace thresher::corpus
