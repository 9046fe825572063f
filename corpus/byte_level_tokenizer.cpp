#include "corpus/byte_level_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <unordered_map>

#include "core/error.h"
#include "core/hash.h"
#include "corpus/bpe.h"
#include "corpus/pretokenizer.h"
#include "corpus/utf8.h"
#include "corpus/whole_tokens.h"

namespace thresher::corpus {
namespace {

using TokenIds = std::unordered_map<std::string, std::int32_t>;

class ByteLevelTokenizer : public Tokenizer {
 public:
  explicit ByteLevelTokenizer(const ByteLevelVocabulary& vocabulary);

  std::vector<std::int32_t> encode(std::string_view text, bool parse_special) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::int64_t n_lost_bytes(std::string_view text) const override;
  std::int64_t vocabulary_size() const override { return static_cast<std::int64_t>(bytes_.size()); }
  std::optional<std::int32_t> bos_id() const override { return bos_id_; }
  std::optional<std::int32_t> eos_id() const override { return eos_id_; }
  bool adds_bos() const override { return adds_bos_; }
  bool is_special(std::int32_t id) const override {
    return id >= 0 && id < vocabulary_size() && is_special_[id] != 0;
  }
  std::string fingerprint() const override { return fingerprint_; }

 private:
  void read_tokens(const ByteLevelVocabulary& vocabulary);
  void read_merges(const ByteLevelVocabulary& vocabulary);
  void encode_ordinary(std::string_view text, std::vector<std::int32_t>& ids) const;
  void encode_piece(std::string_view piece, std::vector<std::int32_t>& symbols,
                    std::vector<std::int32_t>& ids) const;

  PreTokenizer pretokenizer_;
  BpeMerges merges_;
  std::array<std::int32_t, 256> byte_ids_{};  // -1: the vocabulary has no token for this byte
  TokenIds ordinary_;                         // by spelling; ordinary tokens only
  TokenIds whole_pieces_;                     // by bytes; filled if pieces may skip the merges
  WholeTokens user_defined_;
  WholeTokens user_defined_and_special_;
  std::vector<std::string> bytes_;  // of each token
  std::vector<std::uint8_t> is_special_;
  std::optional<std::int32_t> bos_id_, eos_id_;
  bool adds_bos_ = false;
  std::string fingerprint_;
};

std::optional<std::int32_t> checked_id(const std::optional<std::int64_t>& id, const char* name,
                                       const ByteLevelVocabulary& vocabulary) {
  if (!id) return std::nullopt;
  const auto size = static_cast<std::int64_t>(vocabulary.tokens.size());
  if (*id < 0 || *id >= size) {
    throw DataError(fmt::format("{}: tokenizer.ggml.{}_token_id {} is not a token",
                                vocabulary.where, name, *id),
                    fmt::format("an id in [0, {})", size));
  }
  return static_cast<std::int32_t>(*id);
}

std::string fingerprint_of(const ByteLevelVocabulary& vocabulary) {
  Sha256 hash;
  const auto add = [&hash](std::string_view text) {
    const std::string framed = fmt::format("{}:{}", text.size(), text);
    hash.update(std::as_bytes(std::span(framed)));
  };
  add("byte-level-bpe-1");
  add(vocabulary.pretokenizer);
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    add(vocabulary.tokens[id]);
    add(std::to_string(vocabulary.token_types[id]));
  }
  add("merges");
  for (const std::string& merge : vocabulary.merges) add(merge);
  add(vocabulary.bos_id ? std::to_string(*vocabulary.bos_id) : "none");
  add(vocabulary.eos_id ? std::to_string(*vocabulary.eos_id) : "none");
  return hash.hex();
}

ByteLevelTokenizer::ByteLevelTokenizer(const ByteLevelVocabulary& vocabulary)
    : pretokenizer_(vocabulary.pretokenizer, vocabulary.where), merges_(vocabulary.merges.size()) {
  if (vocabulary.tokens.empty() || vocabulary.tokens.size() > (1U << 24) ||
      vocabulary.token_types.size() != vocabulary.tokens.size()) {
    throw DataError(fmt::format("{}: {} tokens and {} token types", vocabulary.where,
                                vocabulary.tokens.size(), vocabulary.token_types.size()),
                    "one type a token, and 1 to 16,777,216 tokens");
  }
  read_tokens(vocabulary);
  read_merges(vocabulary);
  bos_id_ = checked_id(vocabulary.bos_id, "bos", vocabulary);
  eos_id_ = checked_id(vocabulary.eos_id, "eos", vocabulary);
  adds_bos_ = bos_id_ && vocabulary.adds_bos;
  for (const auto& id : {bos_id_, eos_id_}) {
    if (id) is_special_[*id] = 1;
  }
  fingerprint_ = fingerprint_of(vocabulary);
}

void ByteLevelTokenizer::read_tokens(const ByteLevelVocabulary& vocabulary) {
  const std::size_t size = vocabulary.tokens.size();
  bytes_.resize(size);
  is_special_.resize(size);
  TokenIds seen;
  for (std::size_t i = 0; i < size; ++i) {
    const std::string& token = vocabulary.tokens[i];
    const auto id = static_cast<std::int32_t>(i);
    const std::int64_t type = vocabulary.token_types[i];
    const auto [other, is_new] = seen.emplace(token, id);
    if (token.empty() || !is_new) {
      throw DataError(token.empty() ? fmt::format("{}: token {} is empty", vocabulary.where, id)
                                    : fmt::format("{}: token {} repeats token {}", vocabulary.where,
                                                  id, other->second),
                      "distinct, non-empty tokens");
    }
    is_special_[i] = type == ByteLevelVocabulary::kControl || type == ByteLevelVocabulary::kUnknown;
    if (is_special_[i] != 0 || type == ByteLevelVocabulary::kUserDefined) {
      bytes_[i] = token;
      user_defined_and_special_.insert(token, id);
      if (is_special_[i] == 0) user_defined_.insert(token, id);
      continue;
    }
    // Spellings outside the alphabet (padding tokens) can never be encoded; they decode as they
    // stand.
    if (!decode_byte_spelling(token, bytes_[i])) bytes_[i] = token;
    ordinary_.emplace(token, id);
    if (pretokenizer_.ignores_merges()) whole_pieces_.emplace(bytes_[i], id);
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const auto found = ordinary_.find(byte_alphabet()[byte]);
    byte_ids_[byte] = found == ordinary_.end() ? -1 : found->second;
  }
}

void ByteLevelTokenizer::read_merges(const ByteLevelVocabulary& vocabulary) {
  for (std::size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const std::string& merge = vocabulary.merges[rank];
    const auto fail = [&](std::string_view problem) {
      throw DataError(fmt::format("{}: tokenizer.ggml.merges[{}] '{}' {}", vocabulary.where, rank,
                                  merge, problem),
                      "two ordinary tokens and one space between them, each pair once");
    };
    const std::size_t space = merge.find(' ');
    if (space == std::string::npos || merge.find(' ', space + 1) != std::string::npos) {
      fail("is not a pair");
    }
    const std::string left = merge.substr(0, space);
    const std::string right = merge.substr(space + 1);
    const auto left_id = ordinary_.find(left);
    const auto right_id = ordinary_.find(right);
    const auto merged_id = ordinary_.find(left + right);
    if (left_id == ordinary_.end() || right_id == ordinary_.end() || merged_id == ordinary_.end()) {
      fail("names or makes something that is not an ordinary token");
    }
    if (!merges_.insert(left_id->second, right_id->second,
                        {static_cast<std::uint32_t>(rank), merged_id->second})) {
      fail("repeats an earlier one");
    }
  }
}

std::vector<std::int32_t> ByteLevelTokenizer::encode(std::string_view text,
                                                     bool parse_special) const {
  const WholeTokens& whole = parse_special ? user_defined_and_special_ : user_defined_;
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3);
  std::size_t begin = 0;
  while (begin < text.size()) {
    const WholeTokens::Match match = whole.find(text, begin);
    encode_ordinary(text.substr(begin, std::min(match.begin, text.size()) - begin), ids);
    if (match.id < 0) break;
    ids.push_back(match.id);
    begin = match.begin + match.length;
  }
  return ids;
}

void ByteLevelTokenizer::encode_ordinary(std::string_view text,
                                         std::vector<std::int32_t>& ids) const {
  std::vector<std::string_view> pieces;
  for (std::size_t begin = 0; begin < text.size();) {
    const Utf8Run run = next_utf8_run(text, begin);
    if (run.is_valid) {
      pretokenizer_.split(run.bytes, pieces);
    } else {
      pieces.push_back(run.bytes);
    }
    begin += run.bytes.size();
  }
  std::vector<std::int32_t> symbols;
  for (const std::string_view piece : pieces) encode_piece(piece, symbols, ids);
}

void ByteLevelTokenizer::encode_piece(std::string_view piece, std::vector<std::int32_t>& symbols,
                                      std::vector<std::int32_t>& ids) const {
  if (pretokenizer_.ignores_merges()) {
    const auto whole = whole_pieces_.find(std::string(piece));
    if (whole != whole_pieces_.end()) {
      ids.push_back(whole->second);
      return;
    }
  }
  symbols.clear();
  for (const char byte : piece) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    if (id >= 0) symbols.push_back(id);
  }
  merges_.apply(symbols, ids);
}

std::string ByteLevelTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) {
    THRESHER_CHECK(id >= 0 && id < vocabulary_size(), fmt::format("token id {}", id));
    text += bytes_[id];
  }
  return text;
}

std::int64_t ByteLevelTokenizer::n_lost_bytes(std::string_view text) const {
  return std::count_if(text.begin(), text.end(), [this](char byte) {
    return byte_ids_[static_cast<unsigned char>(byte)] < 0;
  });
}

}  // namespace

std::unique_ptr<Tokenizer> make_byte_level_tokenizer(const ByteLevelVocabulary& vocabulary) {
  return std::make_unique<ByteLevelTokenizer>(vocabulary);
}

}  // namespace thresher::corpus
