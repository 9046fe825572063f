#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace thresher {

/// Bytes of the UTF-8 sequence that starts at text[at] (1 to 4), or 0 if none does: stray or
/// missing continuation bytes, overlong forms, surrogates and values above U+10FFFF are none. `at`
/// < text.size().
std::size_t utf8_sequence_length(std::string_view text, std::size_t at);

/// Text that came from outside, as messages show it on one line: control characters, C1 ones
/// included, and bytes that are not UTF-8 become \xHH, line breaks \n and tabs \t; all else stays.
std::string escape_control(std::string_view text);
/// A path as messages show it.
std::string display_path(const std::filesystem::path& path);

}  // namespace thresher
