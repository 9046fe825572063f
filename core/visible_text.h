#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace thresher {

/// Any bytes as a person can read them and a terminal or a page cannot act on them, unambiguously:
/// bytes that are not UTF-8 as \xNN; control characters as \n, \t, \r or \xNN; characters that
/// cannot be seen or that reorder others (zero-width, bidirectional marks, line separators,
/// non-characters) as \u{202e}; a backslash doubled. What remains is valid UTF-8.
std::string visible_text(std::string_view bytes);

/// The same for messages of one line: a backslash stays as it is.
std::string escape_control(std::string_view bytes);
/// A path as messages show it.
std::string display_path(const std::filesystem::path& path);

/// The same for messages of several lines: line breaks and tabs stay, too.
std::string harmless_text(std::string_view bytes);

/// Columns that `text` takes on a terminal where every character is one wide: its code points.
std::size_t display_width(std::string_view text);

}  // namespace thresher
