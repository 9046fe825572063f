#include "corpus/byte_level_tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "tests/corpus/small_vocabulary.h"

namespace thresher::corpus {
namespace {

using testing::kAa;
using testing::kAaaa;
using testing::kEnd;
using testing::kEr;
using testing::kLo;
using testing::kLow;
using testing::kSpaceLow;
using testing::small_vocabulary;

using Ids = std::vector<std::int32_t>;

std::string message_of(const ByteLevelVocabulary& vocabulary) {
  try {
    make_byte_level_tokenizer(vocabulary);
  } catch (const DataError& error) {
    EXPECT_EQ(error.code(), ExitCode::kDamagedInput);
    return error.first_line();
  }
  return "no error";
}

TEST(ByteLevelTokenizer, MergesTheBestPairFirstWhereverItStands) {
  const auto tokenizer = make_byte_level_tokenizer(small_vocabulary());
  EXPECT_EQ(tokenizer->encode("lower"), (Ids{kLow, kEr}));
  EXPECT_EQ(tokenizer->encode("a low"), (Ids{'a', kSpaceLow}));
}

TEST(ByteLevelTokenizer, MergesTheLeftmostOfEqualPairs) {
  const auto tokenizer = make_byte_level_tokenizer(small_vocabulary());
  EXPECT_EQ(tokenizer->encode("aaa"), (Ids{kAa, 'a'}));
  EXPECT_EQ(tokenizer->encode("aaaaaaa"), (Ids{kAaaa, kAa, 'a'}));
}

TEST(ByteLevelTokenizer, MergesALongRunCompletely) {
  const auto tokenizer = make_byte_level_tokenizer(small_vocabulary());
  EXPECT_EQ(tokenizer->encode(std::string(400'000, 'a')), Ids(100'000, kAaaa));
}

TEST(ByteLevelTokenizer, CutsEachDigitApart) {
  ByteLevelVocabulary vocabulary = small_vocabulary();
  vocabulary.tokens.emplace_back("12");
  vocabulary.token_types.push_back(1);
  vocabulary.merges.emplace_back("1 2");
  EXPECT_EQ(make_byte_level_tokenizer(vocabulary)->encode("12"), (Ids{'1', '2'}));
  vocabulary.pretokenizer = "gpt-2";
  EXPECT_EQ(make_byte_level_tokenizer(vocabulary)->encode("12"), (Ids{kEnd + 1}));
}

TEST(ByteLevelTokenizer, GivesBackEveryByte) {
  const auto tokenizer = make_byte_level_tokenizer(small_vocabulary());
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(all)), all);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a slow,  lower \r\n é 12")),
            "a slow,  lower \r\n é 12");
  EXPECT_EQ(tokenizer->n_lost_bytes(all), 0);
}

TEST(ByteLevelTokenizer, KeepsMergesInsideInvalidUtf8Apart) {
  const auto tokenizer = make_byte_level_tokenizer(small_vocabulary());
  EXPECT_EQ(tokenizer->encode("lo\xFFw"), (Ids{kLo, 0xFF, 'w'}));
  EXPECT_EQ(tokenizer->encode("\xE2\x82low"), (Ids{0xE2, 0x82, kLow}));
}

TEST(ByteLevelTokenizer, TakesSpecialTextInDocumentsAsText) {
  const auto tokenizer = make_byte_level_tokenizer(small_vocabulary());
  EXPECT_EQ(tokenizer->encode("low<|end|>"), (Ids{kLow, '<', '|', 'e', 'n', 'd', '|', '>'}));
  EXPECT_EQ(tokenizer->encode("low<|end|><|end", true), (Ids{kLow, kEnd, '<', '|', 'e', 'n', 'd'}));
  EXPECT_EQ(tokenizer->decode(Ids{kLow, kEnd}), "low<|end|>");
}

TEST(ByteLevelTokenizer, PrefersTheLongestSpecialToken) {
  ByteLevelVocabulary vocabulary = small_vocabulary();
  vocabulary.tokens.emplace_back("<|end|>x");
  vocabulary.token_types.push_back(ByteLevelVocabulary::kControl);
  EXPECT_EQ(make_byte_level_tokenizer(vocabulary)->encode("<|end|>x<|end|>y", true),
            (Ids{kEnd + 1, kEnd, 'y'}));
}

TEST(ByteLevelTokenizer, MatchesUserDefinedTokensAlways) {
  ByteLevelVocabulary vocabulary = small_vocabulary();
  vocabulary.tokens.emplace_back("[x]");
  vocabulary.token_types.push_back(ByteLevelVocabulary::kUserDefined);
  const auto tokenizer = make_byte_level_tokenizer(vocabulary);
  EXPECT_EQ(tokenizer->encode("low[x]"), (Ids{kLow, kEnd + 1}));
  EXPECT_FALSE(tokenizer->is_special(kEnd + 1));
}

TEST(ByteLevelTokenizer, LeavesOutBytesWithoutATokenAndCountsThem) {
  ByteLevelVocabulary vocabulary = small_vocabulary();
  vocabulary.tokens[0x04] = "[no byte]";
  const auto tokenizer = make_byte_level_tokenizer(vocabulary);
  EXPECT_EQ(tokenizer->encode("e\x04r"), (Ids{'e', 'r'}));
  EXPECT_EQ(tokenizer->n_lost_bytes("e\x04r\x04"), 2);
}

TEST(ByteLevelTokenizer, KnowsItsSpecialTokens) {
  const auto tokenizer = make_byte_level_tokenizer(small_vocabulary());
  EXPECT_EQ(tokenizer->vocabulary_size(), 263);
  EXPECT_EQ(tokenizer->bos_id(), kEnd);
  EXPECT_EQ(tokenizer->eos_id(), std::nullopt);
  EXPECT_TRUE(tokenizer->is_special(kEnd));
  EXPECT_FALSE(tokenizer->is_special(kLow));
  EXPECT_FALSE(tokenizer->is_special(-1));
  EXPECT_FALSE(tokenizer->is_special(263));
}

TEST(ByteLevelTokenizer, ChangesItsFingerprintWithEveryPart) {
  const std::string original = make_byte_level_tokenizer(small_vocabulary())->fingerprint();
  EXPECT_EQ(make_byte_level_tokenizer(small_vocabulary())->fingerprint(), original);
  ByteLevelVocabulary changed = small_vocabulary();
  std::swap(changed.merges[0], changed.merges[2]);
  EXPECT_NE(make_byte_level_tokenizer(changed)->fingerprint(), original);
  changed = small_vocabulary();
  changed.pretokenizer = "gpt-2";
  EXPECT_NE(make_byte_level_tokenizer(changed)->fingerprint(), original);
  changed = small_vocabulary();
  changed.bos_id.reset();
  EXPECT_NE(make_byte_level_tokenizer(changed)->fingerprint(), original);
  changed = small_vocabulary();
  changed.tokens.back() = "<|stop|>";
  EXPECT_NE(make_byte_level_tokenizer(changed)->fingerprint(), original);
}

TEST(ByteLevelTokenizer, RefusesVocabulariesThatCannotBe) {
  ByteLevelVocabulary broken = small_vocabulary();
  broken.pretokenizer = "deepseek-llm";
  EXPECT_EQ(message_of(broken), "small.gguf: pre-tokenizer 'deepseek-llm' is not known");
  broken = small_vocabulary();
  broken.token_types.pop_back();
  EXPECT_EQ(message_of(broken), "small.gguf: 263 tokens and 262 token types");
  broken = small_vocabulary();
  broken.tokens[kLow] = "lo";
  EXPECT_EQ(message_of(broken), "small.gguf: token 257 repeats token 256");
  broken = small_vocabulary();
  broken.tokens[kLow] = "";
  EXPECT_EQ(message_of(broken), "small.gguf: token 257 is empty");
  broken = small_vocabulary();
  broken.eos_id = 263;
  EXPECT_EQ(message_of(broken), "small.gguf: tokenizer.ggml.eos_token_id 263 is not a token");
}

TEST(ByteLevelTokenizer, RefusesMergesThatCannotBe) {
  const auto message_with = [](const std::string& merge) {
    ByteLevelVocabulary broken = small_vocabulary();
    broken.merges.push_back(merge);
    return message_of(broken);
  };
  EXPECT_EQ(message_with("l o"),
            "small.gguf: tokenizer.ggml.merges[6] 'l o' repeats an earlier one");
  EXPECT_EQ(message_with("low"), "small.gguf: tokenizer.ggml.merges[6] 'low' is not a pair");
  EXPECT_EQ(message_with("l o w"), "small.gguf: tokenizer.ggml.merges[6] 'l o w' is not a pair");
  EXPECT_EQ(message_with("x y"),
            "small.gguf: tokenizer.ggml.merges[6] 'x y' names or makes something that is not an "
            "ordinary token");
  // A merge that made a control token would let a document forge it.
  ByteLevelVocabulary forging = small_vocabulary();
  forging.tokens.emplace_back("<|end|");
  forging.token_types.push_back(1);
  forging.merges.emplace_back("<|end| >");
  EXPECT_EQ(
      message_of(forging),
      "small.gguf: tokenizer.ggml.merges[6] '<|end| >' names or makes something that is not an "
      "ordinary token");
}

}  // namespace
}  // namespace thresher::corpus
