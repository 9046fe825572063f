#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "comm/communicator.h"
#include "core/error.h"

namespace thresher::comm {
namespace {

/// Thrown in the ranks that wait for one that threw; never the reason of a failure.
struct PeerFailed : CommError {
  using CommError::CommError;
};

/// What the ranks of one run share. A message is the sender's span, put down in the slot of
/// (sender, receiver) and copied by the receiver; the sender stays in the call until it has been
/// taken, or takes it back.
struct Group {
  enum class State { kEmpty, kOffered, kBeingTaken };
  struct Slot {
    std::span<const std::byte> bytes;
    State state = State::kEmpty;
  };

  Group(int ranks, double timeout)
      : world_size(ranks),
        timeout_seconds(timeout),
        slots(static_cast<std::size_t>(ranks) * static_cast<std::size_t>(ranks)),
        calls_begun(static_cast<std::size_t>(ranks), 0),
        has_failed(static_cast<std::size_t>(ranks), 0) {}

  Slot& slot(int from, int to) { return slots[static_cast<std::size_t>(from * world_size + to)]; }
  void fail(int rank) {
    const std::lock_guard lock(mutex);
    if (failed_rank < 0) failed_rank = rank;
    has_failed[static_cast<std::size_t>(rank)] = 1;
    changed.notify_all();
  }

  const int world_size;
  const double timeout_seconds;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Slot> slots;
  std::vector<std::uint64_t> calls_begun;
  std::vector<char> has_failed;
  int failed_rank = -1;  // the first
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(Group& group, int rank) : group_(group), rank_(rank) {}
  int rank() const override { return rank_; }
  int world_size() const override { return group_.world_size; }
  std::string_view backend() const override { return "threads"; }

 protected:
  void enter(const Call& call) override {
    const std::lock_guard lock(group_.mutex);
    group_.calls_begun[static_cast<std::size_t>(rank_)] = call.sequence + 1;
  }

  std::vector<int> missing_ranks() override {
    const std::lock_guard lock(group_.mutex);
    std::vector<int> missing;
    for (int other = 0; other < group_.world_size; ++other) {
      if (group_.calls_begun[static_cast<std::size_t>(other)] <= call().sequence) {
        missing.push_back(other);
      }
    }
    return missing;
  }

  void send_receive(int peer, std::span<const std::byte> send,
                    std::span<std::byte> receive) override {
    Group::Slot& out = group_.slot(rank_, peer);
    if (!send.empty()) set(out, {send, Group::State::kOffered});
    try {
      if (!receive.empty()) take(peer, receive);
      if (!send.empty()) wait(peer, [&out] { return out.state == Group::State::kEmpty; });
    } catch (...) {
      take_back(out);
      throw;
    }
  }

 private:
  void set(Group::Slot& slot, Group::Slot content) {
    const std::lock_guard lock(group_.mutex);
    slot = content;
    group_.changed.notify_all();
  }

  void take(int peer, std::span<std::byte> receive) {
    Group::Slot& in = group_.slot(peer, rank_);
    wait(peer, [&in] {
      if (in.state == Group::State::kEmpty) return false;
      in.state = Group::State::kBeingTaken;
      return true;
    });
    const bool is_expected_length = in.bytes.size() == receive.size();
    if (is_expected_length) std::memcpy(receive.data(), in.bytes.data(), receive.size());
    set(in, {});
    THRESHER_CHECK(is_expected_length, "send_receive: the peer sent another length");
  }

  /// The bytes behind an offer die with the call that made it; a receiver that has begun to copy is
  /// waited for.
  void take_back(Group::Slot& slot) {
    std::unique_lock lock(group_.mutex);
    group_.changed.wait(lock, [&slot] { return slot.state != Group::State::kBeingTaken; });
    slot = {};
  }

  /// `condition` is called under the lock until it holds.
  template <class Condition>
  void wait(int peer, Condition condition) {
    const auto start = std::chrono::steady_clock::now();
    const auto deadline = start + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                      std::chrono::duration<double>(group_.timeout_seconds));
    std::unique_lock lock(group_.mutex);
    while (!condition()) {
      // Only the awaited rank's own end counts: ranks that all throw after the same call leave it
      // one by one, and the last ones still have messages from each other to take.
      if (group_.has_failed[static_cast<std::size_t>(peer)] != 0) {
        throw PeerFailed(fmt::format("{} left {} #{} {} because rank {} failed", identity(),
                                     call().operation, call().sequence, call().what,
                                     group_.failed_rank));
      }
      if (group_.changed.wait_until(lock, deadline) == std::cv_status::timeout && !condition()) {
        lock.unlock();
        const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - start;
        fail_timeout(peer, waited.count());
      }
    }
  }

  Group& group_;
  const int rank_;
};

}  // namespace

void run_thread_ranks(int ranks, double timeout_seconds,
                      const std::function<void(Communicator&)>& work) {
  THRESHER_CHECK(ranks >= 1, "run_thread_ranks: at least one rank is needed");
  Group group(ranks, timeout_seconds);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks));
  std::vector<std::exception_ptr> consequences(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto place = static_cast<std::size_t>(rank);
      ThreadCommunicator communicator(group, rank);
      try {
        work(communicator);
        return;
      } catch (const PeerFailed&) {
        consequences[place] = std::current_exception();
      } catch (...) {
        errors[place] = std::current_exception();
      }
      group.fail(rank);
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto* list : {&errors, &consequences}) {
    for (const auto& error : *list) {
      if (error) std::rethrow_exception(error);
    }
  }
}

}  // namespace thresher::comm
