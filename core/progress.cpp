#include "core/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/console.h"
#include "core/log.h"

namespace thresher {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kBarInterval{100};
constexpr std::chrono::seconds kLineInterval{10};
constexpr int kBarCells = 24;

double fraction_done(std::int64_t done, std::int64_t total) {
  return std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
}

std::string bar_of(double fraction) {
  const int full = static_cast<int>(fraction * kBarCells);
  return fmt::format("[{}{}]", std::string(static_cast<std::size_t>(full), '='),
                     std::string(static_cast<std::size_t>(kBarCells - full), ' '));
}

}  // namespace

Progress::Progress(std::string_view what, std::string_view unit, std::int64_t total,
                   std::int64_t already_done, bool is_shown)
    : what_(what),
      unit_(unit),
      total_(total),
      start_(already_done),
      done_(already_done),
      is_shown_(is_shown && is_logged(LogLevel::kInfo)),
      is_terminal_(console_is_terminal()),
      begin_(steady_clock::now()),
      last_print_(begin_) {}

Progress::~Progress() {
  if (is_shown_ && is_terminal_ && !is_finished_) console_draw_bar("");
}

void Progress::update(std::int64_t done, std::string_view note) {
  done_ = done;
  if (!is_shown_ || is_finished_) return;
  const auto now = steady_clock::now();
  if (now - last_print_ < (is_terminal_ ? steady_clock::duration(kBarInterval) : kLineInterval)) {
    return;
  }
  last_print_ = now;
  note_ = note;
  if (!is_terminal_) {
    log_info(describe());
  } else {
    const std::string bar = total_ > 0 ? bar_of(fraction_done(done_, total_)) + " " : "";
    console_draw_bar(bar + describe());
  }
}

void Progress::finish() {
  if (is_finished_) return;
  is_finished_ = true;
  if (!is_shown_) return;
  if (is_terminal_) console_draw_bar("");
  log_info(fmt::format("{}: {} {} in {}, {} {}/s", what_,
                       format_count(static_cast<double>(done_ - start_)), unit_,
                       format_duration(seconds()), format_count(rate()), unit_));
}

double Progress::seconds() const {
  return std::chrono::duration<double>(steady_clock::now() - begin_).count();
}

double Progress::rate() const {
  const double elapsed = seconds();
  return elapsed > 0 ? static_cast<double>(done_ - start_) / elapsed : 0.0;
}

// "harvest: 34 % (1.2M of 3.4M tokens), 12.3k tokens/s, 3 min 20 s left, fvu 0.31"
std::string Progress::describe() const {
  const double speed = rate();
  std::string text = fmt::format("{}: ", what_);
  if (total_ > 0) {
    text += fmt::format("{} % ({} of {} {})", std::floor(100 * fraction_done(done_, total_)),
                        format_count(static_cast<double>(done_)),
                        format_count(static_cast<double>(total_)), unit_);
  } else {
    text += fmt::format("{} {}", format_count(static_cast<double>(done_)), unit_);
  }
  text += fmt::format(", {} {}/s", format_count(speed), unit_);
  if (total_ > done_ && speed > 0) {
    text += fmt::format(", {} left", format_duration(static_cast<double>(total_ - done_) / speed));
  }
  if (!note_.empty()) text += ", " + note_;
  return text;
}

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  constexpr std::array<const char*, 6> kUnits{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  // 1023.95 would be shown as 1024.0.
  for (; value >= 1023.95 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds > 1e9) return "unknown time";
  if (seconds < 9.95) return fmt::format("{:.1f} s", std::max(seconds, 0.0));
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  const std::int64_t minutes = whole / 60;
  if (minutes < 60) return fmt::format("{} min {:02} s", minutes, whole % 60);
  const std::int64_t hours = minutes / 60;
  if (hours < 24) return fmt::format("{} h {:02} min", hours, minutes % 60);
  return fmt::format("{} d {:02} h", hours / 24, hours % 24);
}

std::string format_count(double count) {
  const double size = std::abs(count);
  if (size < 9.995) {
    return count == std::floor(count) ? fmt::format("{:.0f}", count) : fmt::format("{:.2f}", count);
  }
  if (size < 999.5) return fmt::format("{:.0f}", count);
  constexpr std::array<char, 4> kUnits{'k', 'M', 'G', 'T'};
  double value = count / 1000;
  std::size_t unit = 0;
  for (; std::abs(value) >= 999.95 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return fmt::format("{:.1f}{}", value, kUnits[unit]);
}

}  // namespace thresher
