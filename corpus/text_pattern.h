#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "corpus/regex.h"

namespace thresher::corpus {

/// What becomes of the delimiters that a pattern finds, on "the-final--countdown" with '-':
/// kRemoved "the" "final" "countdown"; kIsolated "the" "-" "final" "-" "-" "countdown";
/// kMergedWithPrevious "the-" "final-" "-" "countdown"; kMergedWithNext "the" "-final" "-"
/// "-countdown"; kContiguous "the" "-" "final" "--" "countdown".
enum class SplitBehaviour {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous
};

/// A part of a text: a match, or what lies between two.
struct TextPart {
  std::size_t begin = 0, end = 0;
  bool is_match = false;
};

/// All parts of `text` in order, empty matches among them, as the `tokenizers` library finds them
/// (it advances by a character after an empty match).
void find_parts(const Regex& pattern, std::string_view text, RegexScratch& scratch,
                std::vector<TextPart>& parts);
/// Appends the non-empty pieces that `behaviour` makes of `parts`. With `invert` what lies between
/// the matches are the delimiters.
void append_pieces(std::string_view text, std::vector<TextPart> parts, SplitBehaviour behaviour,
                   bool invert, std::vector<std::string_view>& pieces);

}  // namespace thresher::corpus
