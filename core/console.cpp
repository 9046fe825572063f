#include "core/console.h"

#include <unistd.h>

#include <cstdio>
#include <mutex>
#include <string>

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

}  // namespace

bool console_is_terminal() {
  static const bool is_terminal = isatty(STDERR_FILENO) != 0;
  return is_terminal;
}

void console_print(std::string_view line) {
  const std::lock_guard lock(console_mutex);
  if (shown_bar.empty()) {
    write_to_stderr(line);
  } else {
    write_to_stderr(std::string(kClearLine) + std::string(line) + shown_bar);
  }
}

void console_draw_bar(std::string_view bar) {
  const std::lock_guard lock(console_mutex);
  if (bar.empty() && shown_bar.empty()) return;
  shown_bar = bar;
  write_to_stderr(std::string(kClearLine) + shown_bar);
}

}  // namespace thresher
