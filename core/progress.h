#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace thresher {

/// A bar with rate and time left on a terminal, a line now and then in a log file. Only the rank that
/// `is_shown` says prints. Cheap to call every step.
class Progress {
 public:
  /// `what` e.g. "harvest", `unit` e.g. "tokens"; `already_done` of a continued job is not counted into the rate.
  Progress(std::string_view what, std::string_view unit, std::int64_t total, std::int64_t already_done = 0,
           bool is_shown = true);
  ~Progress();
  /// Sets the absolute position; `note` (e.g. "fvu 0.31") is shown at the end of the line.
  void update(std::int64_t done, std::string_view note = {});
  void finish();
  double seconds() const;
  double rate() const;  // units a second since the start, not counting already_done

 private:
  void print(bool last);

  std::string what_, unit_, note_;
  std::int64_t total_, start_, done_;
  bool is_shown_, is_terminal_, is_finished_ = false;
  std::chrono::steady_clock::time_point begin_, last_print_;
};

/// "1.4 GiB", "3 min 20 s", "12.3k": for people; never parsed.
std::string format_bytes(std::uint64_t bytes);
std::string format_duration(double seconds);
std::string format_count(double count);

}  // namespace thresher
