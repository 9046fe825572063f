#include <fmt/format.h>
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <thread>

#include "comm/communicator.h"
#include "core/error.h"

namespace thresher::comm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMessageTag = 1;
constexpr int kNoteTag = 2;
// One MPI message holds at most this much; progress restarts the deadline, so a slow network is not
// a silent rank.
constexpr std::size_t kPieceBytes = std::size_t{64} << 20;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void check(int status, const char* operation) {
  if (status == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(status, text.data(), &length);
  throw CommError(fmt::format("{} failed: {}", operation, text.data()));
}

/// Spins for a moment, then gives the core away, then sleeps: ranks may share cores.
class Backoff {
 public:
  void pause() {
    ++rounds_;
    if (rounds_ < 200) return;
    if (rounds_ < 2000) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(rounds_ < 20000 ? 50 : 1000));
    }
  }

 private:
  int rounds_ = 0;
};

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(double timeout_seconds) : timeout_seconds_(timeout_seconds) {
    check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &world_size_), "MPI_Comm_size");
    noted_calls_.assign(static_cast<std::size_t>(world_size_), 0);
  }

  ~MpiCommunicator() override {
    int is_finalized = 0;
    MPI_Finalized(&is_finalized);
    // After a failure messages may be under way on it: it stays until the process ends.
    if (is_finalized == 0 && !is_abandoned_) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  std::string_view backend() const override {
    return collectives() == nullptr ? "mpi" : collectives()->backend();
  }

 protected:
  void send_receive(int peer, std::span<const std::byte> send,
                    std::span<std::byte> receive) override {
    while (!send.empty() || !receive.empty()) {
      const auto out = send.first(std::min(send.size(), kPieceBytes));
      const auto in = receive.first(std::min(receive.size(), kPieceBytes));
      exchange(peer, out, in);
      send = send.subspan(out.size());
      receive = receive.subspan(in.size());
    }
  }

  /// Those from whom no note about this call, or a later one, has come.
  std::vector<int> missing_ranks() override {
    read_notes();
    std::vector<int> missing;
    for (int other = 0; other < world_size_; ++other) {
      const bool is_here =
          other == rank_ || noted_calls_[static_cast<std::size_t>(other)] > call().sequence;
      if (!is_here) missing.push_back(other);
    }
    return missing;
  }

 private:
  void exchange(int peer, std::span<const std::byte> send, std::span<std::byte> receive) {
    std::array<MPI_Request, 2> requests{MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    if (!receive.empty()) {
      check(MPI_Irecv(receive.data(), static_cast<int>(receive.size()), MPI_BYTE, peer, kMessageTag,
                      comm_, &requests[0]),
            "MPI_Irecv");
    }
    if (!send.empty()) {
      check(MPI_Isend(send.data(), static_cast<int>(send.size()), MPI_BYTE, peer, kMessageTag,
                      comm_, &requests[1]),
            "MPI_Isend");
    }
    wait(peer, requests);
  }

  void wait(int peer, std::array<MPI_Request, 2>& requests) {
    const auto start = Clock::now();
    Backoff backoff;
    while (true) {
      int is_done = 0;
      const int status = MPI_Testall(2, requests.data(), &is_done, MPI_STATUSES_IGNORE);
      if (status != MPI_SUCCESS) {
        is_abandoned_ = true;
        check(status, "MPI_Testall");
      }
      if (is_done != 0) return;
      const double waited = seconds_since(start);
      if (waited > timeout_seconds_ / 2) exchange_notes();
      if (waited > timeout_seconds_) {
        abandon(requests);
        fail_timeout(peer, waited);
      }
      backoff.pause();
    }
  }

  /// A rank that has waited for long tells everyone which call it has begun, and one that is told
  /// so answers while it waits itself. So at the deadline everyone knows who did not arrive, also
  /// where a rank waits for one that waits for the missing one.
  void exchange_notes() {
    read_notes();
    const std::uint64_t begun = call().sequence + 1;
    if (!notes_sent_.empty() && notes_sent_.back() == begun) return;
    notes_sent_.push_back(begun);
    for (int other = 0; other < world_size_; ++other) {
      if (other == rank_) continue;
      MPI_Request request = MPI_REQUEST_NULL;
      check(MPI_Isend(&notes_sent_.back(), 1, MPI_UINT64_T, other, kNoteTag, comm_, &request),
            "MPI_Isend");
      check(MPI_Request_free(&request), "MPI_Request_free");
    }
  }

  void read_notes() {
    while (true) {
      int has_arrived = 0;
      MPI_Status status;
      check(MPI_Iprobe(MPI_ANY_SOURCE, kNoteTag, comm_, &has_arrived, &status), "MPI_Iprobe");
      if (has_arrived == 0) return;
      std::uint64_t calls = 0;
      check(
          MPI_Recv(&calls, 1, MPI_UINT64_T, status.MPI_SOURCE, kNoteTag, comm_, MPI_STATUS_IGNORE),
          "MPI_Recv");
      auto& known = noted_calls_[static_cast<std::size_t>(status.MPI_SOURCE)];
      known = std::max(known, calls);
    }
  }

  /// The caller's buffers die with the error that follows.
  void abandon(std::array<MPI_Request, 2>& requests) {
    is_abandoned_ = true;
    for (MPI_Request& request : requests) {
      if (request == MPI_REQUEST_NULL) continue;
      MPI_Cancel(&request);
      MPI_Request_free(&request);
    }
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int world_size_ = 1;
  double timeout_seconds_;
  bool is_abandoned_ = false;
  std::deque<std::uint64_t>
      notes_sent_;  // calls begun, as told to the others; MPI reads them later
  std::vector<std::uint64_t> noted_calls_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(double timeout_seconds) {
  int is_initialized = 0, is_finalized = 0;
  MPI_Initialized(&is_initialized);
  MPI_Finalized(&is_finalized);
  THRESHER_CHECK(is_initialized != 0 && is_finalized == 0,
                 "make_mpi_communicator: MPI is not running");
  return std::make_unique<MpiCommunicator>(timeout_seconds);
}

}  // namespace thresher::comm
