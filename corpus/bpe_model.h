#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "corpus/bpe.h"
#include "corpus/json_place.h"

namespace thresher::corpus {

/// The BPE model of a tokenizer.json: its vocabulary, its merges and what it does with characters
/// that are no token. Stateless after construction.
class BpeModel {
 public:
  /// Ids above this are refused: a table is kept for all of them.
  static constexpr std::int64_t kLargestId = (1 << 22) - 1;

  /// `place` is the file's "model". Merges that would make one of `special` (contents of special
  /// tokens) are left out, so that no text can spell a special token; their number is
  /// n_merges_left_out. DataError, naming the place, for another type than BPE, dropout, prefixes
  /// and suffixes of subwords, an id that is negative, too large or there twice, a token of no
  /// bytes, merges that name or make unknown tokens, and an unknown unk_token.
  BpeModel(const JsonPlace& place, const std::unordered_set<std::string>& special);
  BpeModel(const BpeModel&) = delete;

  std::optional<std::int32_t> id_of(std::string_view token) const;
  /// Empty for an id without a token.
  std::string_view token(std::int32_t id) const;
  /// One more than the largest id.
  std::int64_t size() const { return static_cast<std::int64_t>(begins_.size()) - 1; }
  std::int64_t n_tokens() const { return static_cast<std::int64_t>(ids_.size()); }
  std::int64_t n_merges_left_out() const { return n_merges_left_out_; }
  /// True if every byte is a token ("<0x41>") that characters fall back to.
  bool has_all_bytes() const { return has_all_bytes_; }
  /// True if every character of byte_alphabet is a token.
  bool has_byte_alphabet() const { return has_byte_alphabet_; }

  /// Working memory of encode, to be used again.
  using Symbols = std::vector<std::int32_t>;
  /// What became no token, or the unknown one.
  struct Lost {
    std::int64_t characters = 0, bytes = 0;
  };
  /// Appends the ids of a piece of valid UTF-8.
  Lost encode(std::string_view piece, Symbols& symbols, std::vector<std::int32_t>& ids) const;
  /// The same for bytes that are not UTF-8, each by its own byte token.
  Lost encode_bytes(std::string_view bytes, Symbols& symbols, std::vector<std::int32_t>& ids) const;

 private:
  void read_vocabulary(const JsonPlace& place);
  void index_characters();
  void read_merges(const JsonPlace& place, const std::unordered_set<std::string>& special);
  std::int32_t character_id(std::string_view character) const;

  std::string texts_;                  // all tokens in order of id
  std::vector<std::uint32_t> begins_;  // in texts_, one an id and the end
  std::unordered_map<std::string_view, std::int32_t> ids_;
  std::array<std::int32_t, 0x800> short_character_ids_{};  // -1: no token
  std::array<std::int32_t, 256> byte_ids_{};               // of "<0x41>"; -1: none
  std::unique_ptr<BpeMerges> merges_;
  std::unordered_set<std::int32_t> special_ids_;
  std::int64_t n_merges_left_out_ = 0;
  std::int32_t unknown_id_ = -1;
  bool has_unknown_ = false, fuses_unknown_ = false, falls_back_to_bytes_ = false;
  bool ignores_merges_ = false, has_all_bytes_ = false, has_byte_alphabet_ = false;
};

}  // namespace thresher::corpus
