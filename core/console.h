#pragma once

#include <string_view>

namespace thresher {

/// Standard error as log messages and the progress bar share it: a bar stays on the last line of a
/// terminal, and messages go above it. Safe to call from several threads.
bool console_is_terminal();
/// Writes a message, line break included; control characters in it are escaped
/// (core/visible_text.h).
void console_print(std::string_view line);
/// Draws or replaces the bar; an empty text removes it.
void console_draw_bar(std::string_view bar);

}  // namespace thresher
