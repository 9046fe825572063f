#pragma once

#include <cstddef>
#include <string_view>

namespace thresher {

/// Bytes of the UTF-8 sequence that starts at text[at] (1 to 4), or 0 if none does: stray or
/// missing continuation bytes, overlong forms, surrogates and values above U+10FFFF are none. `at`
/// < text.size().
std::size_t utf8_sequence_length(std::string_view text, std::size_t at);

}  // namespace thresher
