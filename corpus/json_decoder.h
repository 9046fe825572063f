#pragma once

#include <memory>
#include <string>
#include <vector>

#include "corpus/json_place.h"
#include "corpus/regex.h"

namespace thresher::corpus {

/// A decoder of a tokenizer.json: tokens as the vocabulary spells them → text. Stateless after
/// construction.
class TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;
  /// Changes the list; its members put together are the text, in bytes that are not always UTF-8
  /// (where the `tokenizers` library would put U+FFFD, the bytes themselves stand).
  virtual void apply(std::vector<std::string>& tokens, RegexScratch& scratch) const = 0;
};

/// ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace and Sequence. DataError, naming the
/// component and where it stands, for others and for values that cannot be.
std::unique_ptr<TokenDecoder> read_decoder(const JsonPlace& place);

}  // namespace thresher::corpus
