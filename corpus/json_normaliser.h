#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "corpus/json_place.h"
#include "corpus/regex.h"

namespace thresher::corpus {

/// A normaliser of a tokenizer.json. Stateless after construction.
class Normaliser {
 public:
  virtual ~Normaliser() = default;
  /// Changes `text`, which is valid UTF-8 and stays so.
  virtual void apply(std::string& text, RegexScratch& scratch) const = 0;
  /// True if the first character that comes out may not come from the first that went in.
  virtual bool may_move_start() const { return false; }
};

/// NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip and Sequence. DataError, naming the
/// component and where it stands, for others and for values that cannot be.
std::unique_ptr<Normaliser> read_normaliser(const JsonPlace& place);

/// The pattern {"String": ...} or {"Regex": ...} of a Replace or Split.
Regex read_pattern(const JsonPlace& place);
/// `text` with every match replaced.
std::string replaced(std::string_view text, const Regex& pattern, std::string_view content,
                     RegexScratch& scratch);

}  // namespace thresher::corpus
