#include "core/stop_signal.h"

#include <fmt/format.h>
#include <time.h>

#include <atomic>
#include <csignal>
#include <cstdint>

namespace thresher {
namespace {

constexpr double kNanosecond = 1e-9;
constexpr std::int64_t kNever = INT64_MAX;

std::int64_t now_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return std::int64_t{1'000'000'000} * time.tv_sec + time.tv_nsec;
}

std::atomic<int> stop_count{0};
std::atomic<int> stop_signal{0};
std::atomic<std::int64_t> signal_ns{0};
std::atomic<std::int64_t> deadline_ns{kNever};
const std::int64_t start_ns = now_ns();
static_assert(std::atomic<int>::is_always_lock_free &&
                  std::atomic<std::int64_t>::is_always_lock_free,
              "a signal handler may touch nothing else");

void on_stop_signal(int signal) {
  if (stop_count.load() == 0) {
    signal_ns = now_ns();
    stop_signal = signal;
  }
  if (stop_count.fetch_add(1) == 0) return;
  // The second request: die by this very signal, so that the parent sees why.
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, signal);
  pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
  raise(signal);
}

bool is_past_deadline() {
  const std::int64_t deadline = deadline_ns.load(std::memory_order_relaxed);
  return deadline != kNever && now_ns() >= deadline;
}

}  // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
}

void stop_after(double seconds) {
  deadline_ns = start_ns + static_cast<std::int64_t>(seconds / kNanosecond);
}

bool stop_requested() {
  return stop_count.load(std::memory_order_relaxed) > 0 || is_past_deadline();
}

std::string stop_reason() {
  if (stop_count > 0) {
    switch (stop_signal.load()) {
      case SIGUSR1:
        return "a signal (SIGUSR1)";
      case SIGTERM:
        return "a signal (SIGTERM)";
      case SIGINT:
        return "a signal (SIGINT)";
      default:
        return "a signal";
    }
  }
  if (!is_past_deadline()) return "another rank";
  const double seconds = kNanosecond * static_cast<double>(deadline_ns - start_ns);
  return fmt::format("the limit of {:.3g} minutes", seconds / 60);
}

std::optional<double> seconds_since_stop_signal() {
  if (stop_count == 0) return std::nullopt;
  return kNanosecond * static_cast<double>(now_ns() - signal_ns);
}

void set_stop_requested(bool requested) {
  stop_count = requested ? 1 : 0;
  stop_signal = 0;
  signal_ns = requested ? now_ns() : 0;
}

}  // namespace thresher
