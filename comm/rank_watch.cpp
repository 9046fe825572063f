#include "comm/rank_watch.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <exception>
#include <fstream>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "comm/crash_report.h"
#include "core/error.h"
#include "core/files.h"
#include "core/stop_signal.h"
#include "core/system_error.h"

namespace thresher::comm {
namespace {

constexpr int kBeatMilliseconds = 1000;
// A launcher that stops a job kills its ranks one after the other: a death that follows a stop
// request by more than this is its doing. One that comes with it is the reason of the request.
constexpr double kEscalationSeconds = 0.7;
constexpr std::size_t kJobsKept = 4;

/// Where a process can be found: process numbers mean something inside one namespace of one kernel.
struct ProcessPlace {
  std::array<char, 64> boot{};
  std::uint64_t pid_namespace = 0;
  std::int64_t pid = 0;
};

ProcessPlace this_place() {
  ProcessPlace place;
  std::ifstream("/proc/sys/kernel/random/boot_id")
      .read(place.boot.data(), static_cast<std::streamsize>(place.boot.size() - 1));
  struct stat status {};
  if (stat("/proc/self/ns/pid", &status) == 0) place.pid_namespace = status.st_ino;
  place.pid = getpid();
  return place;
}

/// A descriptor that becomes readable when the process ends; none on kernels before 5.3.
FileDescriptor open_process(std::int64_t pid) {
  return FileDescriptor(static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0)));
}

bool has_ended(const FileDescriptor& process) {
  pollfd waiting{process.get(), POLLIN, 0};
  return poll(&waiting, 1, 0) == 1;
}

std::vector<std::filesystem::path> flights(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> found;
  if (!std::filesystem::exists(folder)) return found;
  for (const auto& path : list_folder(folder)) {
    if (std::filesystem::is_directory(path)) found.push_back(path);
  }
  return found;
}

/// Rank 0's part: a name for this job's folder, and room for it.
std::string new_flight(const std::filesystem::path& folder) {
  const std::vector<std::filesystem::path> old = flights(folder);
  for (std::size_t i = 0; i + kJobsKept <= old.size(); ++i) {
    std::error_code ignored;  // another job may be doing the same
    std::filesystem::remove_all(old[i], ignored);
  }
  return fmt::format("{:%Y%m%dT%H%M%S}-{}", fmt::gmtime(std::time(nullptr)), getpid());
}

std::string broadcast_text(Communicator& comm, const std::string& mine, std::string_view what) {
  std::vector<std::byte> bytes(mine.size());
  std::memcpy(bytes.data(), mine.data(), mine.size());
  comm.broadcast(bytes, 0, what);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

std::filesystem::path newest_flight(const std::filesystem::path& folder) {
  const std::vector<std::filesystem::path> found = flights(folder);
  return found.empty() ? std::filesystem::path() : found.back();
}

/// The thread that beats and waits for deaths.
class RankWatch::Watcher {
 public:
  struct Neighbour {
    int rank = 0;
    FileDescriptor process;
    bool is_settled = false;  // ended, and there was nothing to tell
  };

  Watcher(FlightRecorder& recorder, std::filesystem::path folder, int rank,
          std::vector<Neighbour> neighbours, OnLost on_lost)
      : recorder_(recorder),
        folder_(std::move(folder)),
        rank_(rank),
        neighbours_(std::move(neighbours)),
        on_lost_(std::move(on_lost)),
        leave_(eventfd(0, EFD_CLOEXEC)) {
    if (!leave_) throw_system_error("eventfd", "create", errno);
    thread_ = std::thread([this] { watch(); });
  }

  ~Watcher() {
    const std::uint64_t one = 1;
    // Fails only when the counter is full, and then the thread wakes up all the same.
    [[maybe_unused]] const ssize_t written = write(leave_.get(), &one, sizeof(one));
    thread_.join();
  }

 private:
  void watch() {
    while (true) {
      std::vector<pollfd> waiting{{leave_.get(), POLLIN, 0}};
      for (const Neighbour& neighbour : neighbours_) {
        if (!neighbour.is_settled) waiting.push_back({neighbour.process.get(), POLLIN, 0});
      }
      poll(waiting.data(), waiting.size(), kBeatMilliseconds);
      if ((waiting[0].revents & POLLIN) != 0) return;
      recorder_.beat();
      for (Neighbour& neighbour : neighbours_) {
        if (!neighbour.is_settled && has_ended(neighbour.process)) judge(neighbour);
      }
    }
  }

  void judge(Neighbour& neighbour) {
    const std::optional<FlightRecord> record = record_of(neighbour.rank);
    const std::optional<double> stop = seconds_since_stop_signal();
    const bool was_lost = record && record->state == FlightRecord::State::kRunning &&
                          !(stop && *stop > kEscalationSeconds);
    neighbour.is_settled = true;
    if (!was_lost || !is_lowest_left()) return;
    const std::string end =
        record->signal != 0
            ? fmt::format("crashed ({})", strsignal(record->signal))
            : std::string("ended without a word, as a killed process does (out of memory?)");
    on_lost_(fmt::format("{} {}, {}", describe_process(*record), end,
                         describe_last_call(*record, epoch_nanoseconds())));
  }

  bool is_lowest_left() const {
    return std::none_of(neighbours_.begin(), neighbours_.end(), [&](const Neighbour& other) {
      return other.rank < rank_ && !other.is_settled && !has_ended(other.process);
    });
  }

  std::optional<FlightRecord> record_of(int rank) const {
    try {
      return read_flight_record(flight_record_path(folder_, rank));
    } catch (const Error&) {
      return std::nullopt;  // somebody has removed the folder: nothing to judge by
    }
  }

  FlightRecorder& recorder_;
  std::filesystem::path folder_;
  int rank_;
  std::vector<Neighbour> neighbours_;
  OnLost on_lost_;
  FileDescriptor leave_;
  std::thread thread_;
};

RankWatch::RankWatch(Communicator& comm, const std::filesystem::path& all, OnLost on_lost)
    : comm_(comm), uncaught_exceptions_(std::uncaught_exceptions()) {
  std::string name;
  comm.agree(
      [&] {
        if (comm.is_root()) name = new_flight(all);
      },
      "clear old flight records");
  const std::filesystem::path folder = all / broadcast_text(comm, name, "name of the job");
  comm.agree(
      [&] { recorder_ = std::make_unique<FlightRecorder>(folder, comm.rank(), comm.world_size()); },
      "make the flight records");
  const ProcessPlace mine = this_place();
  const auto places = comm.all_gather(std::as_bytes(std::span(&mine, 1)), "processes of the ranks");
  std::vector<Watcher::Neighbour> neighbours;
  for (std::size_t rank = 0; rank < places.size(); ++rank) {
    ProcessPlace place;
    THRESHER_CHECK(places[rank].size() == sizeof(place), "a rank sent another size");
    std::memcpy(&place, places[rank].data(), sizeof(place));
    const bool is_near = place.boot == mine.boot && place.pid_namespace == mine.pid_namespace;
    if (!is_near || place.pid == mine.pid) continue;
    if (FileDescriptor process = open_process(place.pid)) {
      neighbours.push_back({static_cast<int>(rank), std::move(process), false});
    }
  }
  // Nobody leaves before all have opened each other, so every number still meant what it said.
  comm.barrier("watch the ranks");
  watcher_ = std::make_unique<Watcher>(*recorder_, folder, comm.rank(), std::move(neighbours),
                                       std::move(on_lost));
  notice_ = std::make_unique<CrashNotice>(comm.identity(), *recorder_);
  comm.use_recorder(recorder_.get());
  comm.use_witness([folder](int rank) {
    try {
      const FlightRecord record = read_flight_record(flight_record_path(folder, rank));
      return fmt::format("{}, last seen {}", describe_process(record),
                         describe_last_call(record, epoch_nanoseconds()));
    } catch (const Error&) {
      return std::string();
    }
  });
}

RankWatch::~RankWatch() {
  comm_.use_recorder(nullptr);
  comm_.use_witness({});
  recorder_->note_state(std::uncaught_exceptions() > uncaught_exceptions_
                            ? FlightRecord::State::kFailed
                            : FlightRecord::State::kFinished);
}

}  // namespace thresher::comm
