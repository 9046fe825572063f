#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace thresher {

/// A bar with rate and time left on a terminal, a log line every ten seconds elsewhere. Only the
/// rank that `is_shown` says prints, and nobody above log level info. Cheap to call every step; has
/// no thread of its own.
class Progress {
 public:
  /// `what` e.g. "harvest", `unit` e.g. "tokens"; `already_done` of a continued job is not counted
  /// into the rate.
  Progress(std::string_view what, std::string_view unit, std::int64_t total,
           std::int64_t already_done = 0, bool is_shown = true);
  /// Takes the bar away; a job that did not call finish() gets no closing line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// Sets the absolute position; `note` (e.g. "fvu 0.31") is shown at the end of the line.
  void update(std::int64_t done, std::string_view note = {});
  /// Prints the closing line: how much, how long, how fast.
  void finish();
  double seconds() const;
  double rate() const;  // units a second since the start, not counting already_done

 private:
  std::string describe() const;

  std::string what_, unit_, note_;
  std::int64_t total_, start_, done_;
  bool is_shown_, is_terminal_, is_finished_ = false;
  std::chrono::steady_clock::time_point begin_, last_print_;
};

/// For people; never parsed.
std::string format_bytes(std::uint64_t bytes);  // "512 B", "1.4 GiB"
std::string format_duration(
    double seconds);                     // "0.4 s", "12 s", "3 min 20 s", "2 h 05 min", "3 d 04 h"
std::string format_count(double count);  // "0.53", "950", "12.3k", "1.2M"

}  // namespace thresher
