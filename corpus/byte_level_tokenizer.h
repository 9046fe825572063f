#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "corpus/tokenizer.h"

namespace thresher::corpus {

/// What decides the ids of a byte-level BPE, as GGUF stores it.
struct ByteLevelVocabulary {
  /// GGUF's token_type, as far as it matters here; tokens of other types are ordinary.
  static constexpr std::int64_t kUnknown = 2, kControl = 3, kUserDefined = 4;

  std::string where;         // starts every error message: the file
  std::string pretokenizer;  // see corpus/pretokenizer.h
  std::vector<std::string>
      tokens;  // in byte_alphabet spelling; control and user-defined ones as they are
  std::vector<std::int64_t> token_types;  // one a token
  std::vector<std::string> merges;        // "left right", best first
  std::optional<std::int64_t> bos_id;
  std::optional<std::int64_t> eos_id;
  bool adds_bos = false;  // Tokenizer::adds_bos; decides no ids
};

/// Control (and unknown) tokens are special; user-defined ones are ordinary text that is always one
/// token. Bytes without a token are left out and their neighbours may merge, as in the `tokenizers`
/// library. DataError for token ids out of range, a token that is there twice, and merges that
/// repeat, are malformed, or name or make something that is not an ordinary token.
std::unique_ptr<Tokenizer> make_byte_level_tokenizer(const ByteLevelVocabulary& vocabulary);

}  // namespace thresher::corpus
