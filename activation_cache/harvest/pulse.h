#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "comm/communicator.h"

namespace thresher::activation_cache {

/// Keeps ranks in touch while each works on its own list, for as long as it takes: a thread of its
/// own meets the other ranks several times a second, so nobody runs into a deadline only because
/// another rank is still at work. It carries progress, stop requests, failures and one announcement
/// of rank 0. Its own deadline is for ranks that beat and yet stand still: one that has said it
/// is at work (begin_work) and adds no tokens for `stall_seconds` ends the job with CommError.
///
/// From construction to the end of `finish` the communicator belongs to the pulse. With one rank
/// there is no thread.
class Pulse {
 public:
  /// `stall_seconds` 0: work may stand still for as long as it likes.
  explicit Pulse(comm::Communicator& comm, double stall_seconds = 0);
  ~Pulse();
  Pulse(const Pulse&) = delete;

  void begin_work();
  void add_tokens(std::int64_t tokens);
  /// Of all ranks, as last heard.
  std::int64_t tokens_of_all() const;
  /// Asks every rank to leave its work, as a failure does too.
  void request_stop();
  void report_failure();
  bool should_leave() const { return should_leave_; }
  /// True if any rank asked for a stop; agreed by all after `finish`.
  bool was_stopped() const { return was_stopped_; }

  /// Rank 0 tells all ranks some numbers, once; the others wait for them. Nothing when they should
  /// leave instead. Waiting is not standing still.
  void announce(std::vector<double> numbers);
  std::optional<std::vector<double>> wait_for_announcement();

  /// Says that this rank's work is over and waits for all others; `while_waiting` is called now and
  /// then. Rethrows what went wrong between the ranks.
  void finish(const std::function<void()>& while_waiting = {});

 private:
  void beat();
  bool exchange();  // true when all ranks have finished
  void tell_others();

  double still_seconds() const;
  void find_stalled(const std::vector<std::vector<std::byte>>& all) const;

  comm::Communicator& comm_;
  const double stall_seconds_;
  std::atomic<std::int64_t> own_tokens_ = 0;
  std::atomic<double> worked_at_ = 0;  // seconds of the steady clock; 0: not at work
  std::atomic<bool> should_leave_ = false;
  std::atomic<bool> was_stopped_ = false;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool has_news_ = false;
  bool is_stopping_ = false, is_failed_ = false, is_finished_ = false;
  bool have_all_finished_ = false;
  std::int64_t all_tokens_ = 0;
  std::optional<std::vector<double>> announcement_;
  std::exception_ptr error_;
  std::thread thread_;
};

/// Runs `work` on every rank with a pulse beside it, then makes all ranks agree on its success: the
/// same Error everywhere if any rank failed. Collective; `work` may take as long as it likes, and
/// stand still for `stall_seconds` (Pulse). Returns whether a stop was asked for.
bool run_with_pulse(comm::Communicator& comm, std::string_view what,
                    const std::function<void(Pulse&)>& work,
                    const std::function<void(const Pulse&)>& while_waiting = {},
                    double stall_seconds = 0);

}  // namespace thresher::activation_cache
