#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace thresher::comm {

/// One call of a communicator, as a flight record keeps it. Times are nanoseconds since the epoch.
struct RecordedCall {
  std::uint64_t sequence = 0;
  std::int64_t begun_ns = 0;
  std::int64_t ended_ns = 0;  // 0: it was under way
  std::uint64_t bytes = 0;
  std::string operation, what;
};

/// What a rank left behind, or is doing now.
struct FlightRecord {
  enum class State { kRunning = 0, kFinished = 1, kFailed = 2 };
  int rank = 0, world_size = 1;
  std::string host;
  std::int64_t pid = 0;
  State state = State::kRunning;  // kRunning of a dead process: it ended without a word
  int signal = 0;                 // that it crashed with, 0 if none
  std::int64_t started_ns = 0, beat_ns = 0;
  std::vector<RecordedCall> calls;  // the latest, oldest first
};

/// The name of a rank's record in its job's folder: rank-00003.bin.
std::filesystem::path flight_record_path(const std::filesystem::path& folder, int rank);
/// Reads a record, of a living process too. DataError if the file is not one.
FlightRecord read_flight_record(const std::filesystem::path& path);
/// "rank 3 of 8 (host n1, pid 4711)"
std::string describe_process(const FlightRecord& record);
/// "in all_reduce #1043 grad.W_dec (25.0 MiB) for 41.0 s" or "41.0 s after all_reduce #1042 ..."
std::string describe_last_call(const FlightRecord& record, std::int64_t now_ns);

std::int64_t epoch_nanoseconds();

/// The last kCalls calls of one rank in a memory-mapped file, which stays readable whatever ends
/// the process: the kernel keeps the pages. The disk space is taken when it is made, so that a full
/// disk cannot fail a write later. One thread calls begin and end; `beat` and `note_signal` may
/// come from any, the latter from a signal handler too.
class FlightRecorder {
 public:
  static constexpr std::size_t kCalls = 1024;

  /// Makes `folder` and the record in it. IoError on failure, also if the record is there.
  FlightRecorder(const std::filesystem::path& folder, int rank, int world_size);
  ~FlightRecorder();
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;

  void begin(std::string_view operation, std::uint64_t sequence, std::string_view what,
             std::uint64_t bytes) noexcept;
  void end() noexcept;
  /// Says that the process lives.
  void beat() noexcept;
  void note_state(FlightRecord::State state) noexcept;
  void note_signal(int signal) noexcept;

 private:
  struct Layout;
  Layout* layout_ = nullptr;
};

}  // namespace thresher::comm
