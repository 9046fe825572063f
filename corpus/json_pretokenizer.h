#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "corpus/json_place.h"
#include "corpus/regex.h"

namespace thresher::corpus {

/// The pieces of a text on their way through pre-tokenizers. Pieces that a step rewrites live in
/// `texts`.
struct Pieces {
  std::vector<std::string_view> views;  // none is empty
  std::deque<std::string> texts;
  /// True if the first piece begins where the text given to encode does.
  bool is_at_start = false;
};

/// A pre-tokenizer of a tokenizer.json: cuts text into the pieces inside which BPE may merge.
/// Stateless after construction.
class PieceCutter {
 public:
  virtual ~PieceCutter() = default;
  virtual void apply(Pieces& pieces, RegexScratch& scratch) const = 0;
  /// True if its pieces are written in byte_alphabet.
  virtual bool is_byte_level() const { return false; }
  /// True if it treats the start of the text apart.
  virtual bool knows_start() const { return false; }
};

/// ByteLevel, Split, Digits, Whitespace, WhitespaceSplit, Punctuation, Metaspace and Sequence.
/// DataError, naming the component and where it stands, for others and for values that cannot be.
std::unique_ptr<PieceCutter> read_pretokenizer(const JsonPlace& place);

}  // namespace thresher::corpus
