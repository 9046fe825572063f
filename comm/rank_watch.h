#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "comm/flight_recorder.h"

namespace thresher::comm {

class CrashNotice;

/// Watches over the ranks of one job while it lives: records this rank's calls (FlightRecorder),
/// beats once a second, and waits for the ends of the other ranks' processes on this host. A rank
/// that ends without having said that it finished or failed is told to `on_lost` on the lowest rank
/// that is left on its host, within a moment of its death. A rank of another host that falls silent
/// is found by the deadline of the call that waits for it; its record then says in the error where
/// it was last seen.
///
/// Destroyed by an exception, it records that this rank failed, else that it finished.
class RankWatch {
 public:
  /// `message` is one line: which rank, host, process, how it ended and where it was. Called once
  /// at most, on a thread of the watch, and expected to end the process.
  using OnLost = std::function<void(const std::string& message)>;

  /// Records go to a new folder TIME-PID in `folder`, of which the newest few are kept (TIME and
  /// PID are rank 0's). `folder` is on a file system that all ranks see. Collective. IoError on all
  /// ranks when a record cannot be made.
  RankWatch(Communicator& comm, const std::filesystem::path& folder, OnLost on_lost);
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

 private:
  class Watcher;
  Communicator& comm_;
  std::unique_ptr<FlightRecorder> recorder_;
  std::unique_ptr<CrashNotice> notice_;
  std::unique_ptr<Watcher> watcher_;
  int uncaught_exceptions_;
};

/// The folder of the newest job in `folder`, empty if there is none.
std::filesystem::path newest_flight(const std::filesystem::path& folder);

/// From here on a process that crashes (SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT) prints one line
/// that says so and notes the signal in the flight records of its ranks, then dies by that signal.
/// Not with AddressSanitizer or ThreadSanitizer, which have their own.
void install_crash_report();

}  // namespace thresher::comm
