#include "activation_cache/harvest/pulse.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/system_error.h"

namespace thresher::activation_cache {

namespace {

constexpr std::chrono::milliseconds kInterval{100};

/// What a rank says at each beat; the numbers of an announcement follow.
struct Message {
  std::int64_t tokens = 0;
  double still_seconds = 0;
  std::int32_t is_stopping = 0, is_failed = 0, is_finished = 0, has_announcement = 0;
  std::int32_t pid = 0;
  std::array<char, 64> host = {};  // ends with a 0
};

Message message_of(const std::vector<std::byte>& bytes) {
  Message message;
  THRESHER_CHECK(bytes.size() >= sizeof(message), "a whole message from every rank");
  std::memcpy(&message, bytes.data(), sizeof(message));
  return message;
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Pulse::Pulse(comm::Communicator& comm, double stall_seconds)
    : comm_(comm), stall_seconds_(stall_seconds) {
  if (comm.world_size() > 1) thread_ = std::thread([this] { beat(); });
}

Pulse::~Pulse() {
  if (!thread_.joinable()) return;
  // Left by an exception: the other ranks must still be able to finish.
  report_failure();
  {
    const std::lock_guard lock(mutex_);
    is_finished_ = true;
  }
  tell_others();
  thread_.join();
}

void Pulse::begin_work() { worked_at_ = now_seconds(); }

void Pulse::add_tokens(std::int64_t tokens) {
  own_tokens_ += tokens;
  worked_at_ = now_seconds();
}

double Pulse::still_seconds() const {
  const double since = worked_at_;
  return since == 0 ? 0 : now_seconds() - since;
}

/// Every rank sees the same messages, so all of them come to the same end.
void Pulse::find_stalled(const std::vector<std::vector<std::byte>>& all) const {
  if (stall_seconds_ == 0) return;
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const Message message = message_of(all[rank]);
    if (message.is_finished != 0 || message.still_seconds <= stall_seconds_) continue;
    throw CommError(
        fmt::format(
            "rank {} of {} (host {}, pid {}) is alive and has computed nothing for {:.1f} s", rank,
            all.size(), message.host.data(), message.pid, message.still_seconds),
        fmt::format("a step forward of its harvest within cache.stall_seconds = {}",
                    stall_seconds_),
        "its device or its storage may hang; if they are only slow, raise cache.stall_seconds; the "
        "same command continues");
  }
}

std::int64_t Pulse::tokens_of_all() const {
  if (comm_.world_size() == 1) return own_tokens_;
  const std::lock_guard lock(mutex_);
  return all_tokens_;
}

void Pulse::tell_others() {
  const std::lock_guard lock(mutex_);
  has_news_ = true;
  changed_.notify_all();
}

void Pulse::request_stop() {
  should_leave_ = true;
  was_stopped_ = true;
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  tell_others();
}

void Pulse::report_failure() {
  should_leave_ = true;
  {
    const std::lock_guard lock(mutex_);
    is_failed_ = true;
  }
  tell_others();
}

void Pulse::announce(std::vector<double> numbers) {
  THRESHER_CHECK(comm_.is_root(), "rank 0 announces");
  {
    const std::lock_guard lock(mutex_);
    announcement_ = std::move(numbers);
  }
  tell_others();
}

std::optional<std::vector<double>> Pulse::wait_for_announcement() {
  worked_at_ = 0;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return announcement_.has_value() || should_leave_; });
  begin_work();
  return announcement_;
}

void Pulse::finish(const std::function<void()>& while_waiting) {
  if (comm_.world_size() == 1) return;
  {
    const std::lock_guard lock(mutex_);
    is_finished_ = true;
  }
  tell_others();
  std::unique_lock lock(mutex_);
  while (!have_all_finished_ && !error_) {
    changed_.wait_for(lock, kInterval);
    if (!while_waiting) continue;
    lock.unlock();
    while_waiting();
    lock.lock();
  }
  lock.unlock();
  thread_.join();
  if (error_) std::rethrow_exception(error_);
}

void Pulse::beat() {
  try {
    while (!exchange()) {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, kInterval, [&] { return has_news_; });
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    error_ = std::current_exception();
    should_leave_ = true;
    changed_.notify_all();
  }
}

bool Pulse::exchange() {
  std::vector<std::byte> mine(sizeof(Message));
  {
    const std::lock_guard lock(mutex_);
    has_news_ = false;
    Message message{own_tokens_, still_seconds(), is_stopping_,
                    is_failed_,  is_finished_,    comm_.is_root() && announcement_.has_value(),
                    getpid()};
    const std::string host = host_name();
    std::copy_n(host.begin(), std::min(host.size(), message.host.size() - 1), message.host.begin());
    std::memcpy(mine.data(), &message, sizeof(message));
    if (message.has_announcement != 0) {
      const auto numbers = std::as_bytes(std::span(*announcement_));
      mine.insert(mine.end(), numbers.begin(), numbers.end());
    }
  }
  const std::vector<std::vector<std::byte>> all = comm_.all_gather(mine, "harvest pulse");
  find_stalled(all);
  const std::lock_guard lock(mutex_);
  all_tokens_ = 0;
  bool have_all_finished = true;
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const Message message = message_of(all[rank]);
    all_tokens_ += message.tokens;
    have_all_finished = have_all_finished && message.is_finished != 0;
    if (message.is_stopping != 0) was_stopped_ = true;
    if (message.is_stopping != 0 || message.is_failed != 0) should_leave_ = true;
    if (message.has_announcement != 0 && !announcement_) {
      std::vector<double> numbers((all[rank].size() - sizeof(message)) / sizeof(double));
      if (!numbers.empty()) {
        std::memcpy(numbers.data(), all[rank].data() + sizeof(message),
                    numbers.size() * sizeof(double));
      }
      announcement_ = std::move(numbers);
    }
  }
  have_all_finished_ = have_all_finished;
  changed_.notify_all();
  return have_all_finished;
}

bool run_with_pulse(comm::Communicator& comm, std::string_view what,
                    const std::function<void(Pulse&)>& work,
                    const std::function<void(const Pulse&)>& while_waiting, double stall_seconds) {
  std::exception_ptr error;
  bool was_stopped = false;
  {
    Pulse pulse(comm, stall_seconds);
    try {
      work(pulse);
    } catch (...) {
      error = std::current_exception();
      pulse.report_failure();
    }
    pulse.finish([&] {
      if (while_waiting) while_waiting(pulse);
    });
    if (while_waiting) while_waiting(pulse);
    was_stopped = pulse.was_stopped();
  }
  comm.agree(
      [&] {
        if (error) std::rethrow_exception(error);
      },
      what);
  return was_stopped;
}

}  // namespace thresher::activation_cache
