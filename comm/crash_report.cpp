#include "comm/crash_report.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <string_view>

#include "comm/flight_recorder.h"
#include "comm/rank_watch.h"

namespace thresher::comm {
namespace {

constexpr int kSlots = 64;  // ranks that are threads of this process
constexpr std::size_t kTextBytes = 400;

/// Read in a signal handler, so nothing here allocates or locks.
struct Slot {
  std::atomic<FlightRecorder*> recorder{nullptr};
  std::array<char, kTextBytes> identity{};
};
std::array<Slot, kSlots> slots;
std::atomic_flag has_crashed = ATOMIC_FLAG_INIT;

struct SignalName {
  int number;
  const char* name;
};
constexpr std::array kSignals = {SignalName{SIGSEGV, "SIGSEGV"}, SignalName{SIGBUS, "SIGBUS"},
                                 SignalName{SIGILL, "SIGILL"}, SignalName{SIGFPE, "SIGFPE"},
                                 SignalName{SIGABRT, "SIGABRT"}};

void put(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(STDERR_FILENO, text.data(), text.size());
    if (n <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

void on_crash(int signal) {
  if (!has_crashed.test_and_set()) {
    const char* identity = "";
    for (Slot& slot : slots) {
      FlightRecorder* recorder = slot.recorder.load();
      if (recorder == nullptr) continue;
      recorder->note_signal(signal);
      if (*identity == '\0') identity = slot.identity.data();
    }
    put("error: ");
    put(*identity == '\0' ? "this process" : identity);
    put(" crashed with ");
    for (const SignalName& known : kSignals) {
      if (known.number == signal) put(known.name);
    }
    put("\n  hint: this is a bug in Thresher, please report it with this line\n");
  }
  // SA_RESETHAND has put the default action back.
  raise(signal);
}

}  // namespace

CrashNotice::CrashNotice(const std::string& identity, FlightRecorder& recorder) {
  for (int i = 0; i < kSlots; ++i) {
    FlightRecorder* none = nullptr;
    Slot& slot = slots[static_cast<std::size_t>(i)];
    if (!slot.recorder.compare_exchange_strong(none, &recorder)) continue;
    const std::size_t length = std::min(identity.size(), kTextBytes - 1);
    std::memcpy(slot.identity.data(), identity.data(), length);
    slot.identity[length] = '\0';
    slot_ = i;
    return;
  }
}

CrashNotice::~CrashNotice() {
  if (slot_ >= 0) slots[static_cast<std::size_t>(slot_)].recorder = nullptr;
}

void install_crash_report() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  struct sigaction action {};
  action.sa_handler = on_crash;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESETHAND | SA_NODEFER | SA_ONSTACK;
  for (const SignalName& signal : kSignals) sigaction(signal.number, &action, nullptr);
#endif
}

}  // namespace thresher::comm
