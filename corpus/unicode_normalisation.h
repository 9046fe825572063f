#pragma once

#include <string>
#include <string_view>

namespace thresher::corpus {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

/// `text` (valid UTF-8) in a Unicode normal form, as the `tokenizers` library makes it: its tables
/// are of Unicode 9, and characters whose decomposition or combining class came later are left as
/// they stand. O(n log n) whatever the text, memory of a few times the text.
std::string normalised(std::string_view text, NormalForm form);

/// Every character in lower case by itself (no word-final sigma).
std::string lower_case(std::string_view text);

/// Bytes of White_Space characters at the start and at the end of `text` (valid UTF-8).
std::size_t leading_white_space(std::string_view text);
std::size_t trailing_white_space(std::string_view text);

/// Appends the UTF-8 of a code point.
void append_utf8(std::string& text, char32_t code_point);

}  // namespace thresher::corpus
