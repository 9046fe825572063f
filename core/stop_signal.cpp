#include "core/stop_signal.h"

#include <atomic>
#include <csignal>

namespace thresher {
namespace {

std::atomic<int> stop_count{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch nothing else");

void on_stop_signal(int signal) {
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

}  // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
}

bool stop_requested() { return stop_count.load(std::memory_order_relaxed) > 0; }

void set_stop_requested(bool requested) { stop_count.store(requested ? 1 : 0); }

}  // namespace thresher
