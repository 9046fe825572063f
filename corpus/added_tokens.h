#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "corpus/bpe_model.h"
#include "corpus/json_normaliser.h"
#include "corpus/json_place.h"
#include "corpus/regex.h"
#include "corpus/whole_tokens.h"

namespace thresher::corpus {

/// The added tokens of a tokenizer.json: found in text as a whole before anything else is done with
/// it (or, those that are `normalized`, after the normaliser), as the `tokenizers` library does.
/// Stateless after construction.
class AddedTokens {
 public:
  /// `list` is the file's "added_tokens" or nothing. DataError, naming the place, for a token that
  /// is empty or there twice or too long, and for an id that is not the model's, or for tokens that
  /// the model lacks not the next after the vocabulary's.
  AddedTokens(const std::optional<JsonPlace>& list, const BpeModel& model,
              const Normaliser* normaliser);
  /// Contents of the tokens marked special, read before the model is.
  static std::unordered_set<std::string> special_contents(const std::optional<JsonPlace>& list);

  /// A part of a text: a token, or what lies between two.
  struct Section {
    std::size_t begin = 0, end = 0;
    std::int32_t id = -1;  // of a token
  };
  /// Sections of `text` before (`is_normalised` false) or after normalisation. Special tokens are
  /// found but not taken unless `parse_special`: their text stays text.
  std::vector<Section> cut(std::string_view text, bool is_normalised, bool parse_special,
                           RegexScratch& scratch) const;

  bool is_special(std::int32_t id) const;
  /// What decoders are given for the token; nullptr if `id` is not an added token.
  const std::string* spelling(std::int32_t id) const;
  std::optional<std::int32_t> id_of(std::string_view content) const;
  /// One more than the largest id; 0 without tokens.
  std::int64_t size() const { return tokens_.empty() ? 0 : tokens_.rbegin()->first + 1; }

 private:
  struct Token {
    std::string content, spelling;
    bool single_word = false, lstrip = false, rstrip = false, special = false;
  };
  void add(const JsonPlace& place, const BpeModel& model, const Normaliser* normaliser,
           std::int64_t& next_id);
  bool stands_alone(std::string_view text, const WholeTokens::Match& match,
                    RegexScratch& scratch) const;

  std::map<std::int32_t, Token> tokens_;
  WholeTokens raw_, normalised_;
  Regex word_;
};

}  // namespace thresher::corpus
