#include "core/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <string>

#include "core/utf8.h"
#include "core/visible_text.h"

namespace thresher {
namespace {

constexpr std::string_view kClearLine = "\r\x1b[K";

std::mutex console_mutex;
std::string shown_bar;  // guarded by console_mutex

void write_to_stderr(std::string_view text) {
  // Nobody is left to tell if standard error itself fails.
  (void)std::fwrite(text.data(), 1, text.size(), stderr);
  (void)std::fflush(stderr);
}

// A bar longer than the line would wrap, and only its last row could be taken away again.
std::string_view cut_to_line(std::string_view bar) {
  struct winsize window {};
  const bool is_known = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1;
  const std::size_t columns = is_known ? window.ws_col - 1U : 79U;
  std::size_t end = 0;
  for (std::size_t used = 0; used < columns && end < bar.size(); ++used) {
    end += std::max<std::size_t>(utf8_sequence_length(bar, end), 1);
  }
  return bar.substr(0, end);
}

}  // namespace

bool console_is_terminal() {
  static const bool is_terminal = isatty(STDERR_FILENO) != 0;
  return is_terminal;
}

void console_print(std::string_view line) {
  const std::string text = harmless_text(line);
  const std::lock_guard lock(console_mutex);
  write_to_stderr(shown_bar.empty() ? text : std::string(kClearLine) + text + shown_bar);
}

void console_draw_bar(std::string_view bar) {
  const std::lock_guard lock(console_mutex);
  if (bar.empty() && shown_bar.empty()) return;
  shown_bar = cut_to_line(bar);
  write_to_stderr(std::string(kClearLine) + shown_bar);
}

}  // namespace thresher
