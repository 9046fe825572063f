#pragma once

#include <cstddef>
#include <string_view>

namespace thresher::corpus {

/// A maximal run of bytes that is valid UTF-8 throughout, or holds no valid character at all.
struct Utf8Run {
  std::string_view bytes;
  bool is_valid = true;
};

/// The run that starts at `begin` < text.size(). Characters are Unicode scalar values: surrogates,
/// overlong forms and values past U+10FFFF are invalid, byte by byte, as in Python's
/// "surrogateescape".
Utf8Run next_utf8_run(std::string_view text, std::size_t begin);

}  // namespace thresher::corpus
