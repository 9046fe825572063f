#pragma once

#include "corpus/bpe.h"
#include "corpus/byte_level_tokenizer.h"

namespace thresher::testing {

inline constexpr std::int32_t kLo = 256, kLow = 257, kEr = 258, kSpaceLow = 259, kAa = 260,
                              kAaaa = 261, kEnd = 262;

/// Tokens 0 to 255 are the bytes; then "lo", "low", "er", " low", "aa", "aaaa", and the control
/// token "<|end|>".
inline corpus::ByteLevelVocabulary small_vocabulary() {
  corpus::ByteLevelVocabulary vocabulary;
  vocabulary.where = "small.gguf";
  vocabulary.pretokenizer = "smollm";
  vocabulary.tokens.assign(corpus::byte_alphabet().begin(), corpus::byte_alphabet().end());
  for (const char* token : {"lo", "low", "er", "Ġlow", "aa", "aaaa", "<|end|>"}) {
    vocabulary.tokens.emplace_back(token);
  }
  vocabulary.token_types.assign(vocabulary.tokens.size(), 1);
  vocabulary.token_types.back() = corpus::ByteLevelVocabulary::kControl;
  vocabulary.merges = {"l o", "lo w", "e r", "Ġ low", "a a", "aa aa"};
  vocabulary.bos_id = kEnd;
  return vocabulary;
}

}  // namespace thresher::testing
