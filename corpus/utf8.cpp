#include "corpus/utf8.h"

#include <utf8proc.h>

namespace thresher::corpus {
namespace {

/// Bytes of the character at `begin`, or 0 if none starts there.
std::size_t character_length(std::string_view text, std::size_t begin) {
  if (static_cast<unsigned char>(text[begin]) < 0x80) return 1;
  utf8proc_int32_t code_point = 0;
  const auto length =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + begin,
                       static_cast<utf8proc_ssize_t>(text.size() - begin), &code_point);
  return length > 0 ? static_cast<std::size_t>(length) : 0;
}

}  // namespace

Utf8Run next_utf8_run(std::string_view text, std::size_t begin) {
  std::size_t length = character_length(text, begin);
  const bool is_valid = length > 0;
  std::size_t end = begin;
  while (end < text.size() && (length > 0) == is_valid) {
    end += is_valid ? length : 1;
    if (end < text.size()) length = character_length(text, end);
  }
  return {text.substr(begin, end - begin), is_valid};
}

}  // namespace thresher::corpus
