#include "comm/fault.h"

#include <unistd.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <thread>

#include "core/error.h"

namespace thresher::comm {

#if defined(THRESHER_FAILPOINTS)

namespace {

struct Fault {
  std::int64_t rank = 0;
  std::uint64_t call = 0;
  std::string kind;
  double seconds = 0;
};

template <class T>
bool read_number(std::string_view text, T& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

std::optional<Fault> read_fault() {
  const char* setting = std::getenv("THRESHER_COMM_FAULT");
  if (setting == nullptr) return std::nullopt;
  const std::string_view text(setting);
  const std::size_t first = text.find(':');
  const std::size_t second = first == text.npos ? text.npos : text.find(':', first + 1);
  Fault fault;
  if (second != text.npos && read_number(text.substr(0, first), fault.rank) &&
      read_number(text.substr(first + 1, second - first - 1), fault.call)) {
    fault.kind = text.substr(second + 1);
    const bool is_delay = fault.kind.starts_with("delay=");
    if (is_delay && read_number(std::string_view(fault.kind).substr(6), fault.seconds))
      return fault;
    for (const char* known : {"kill", "exit", "crash", "stop", "spin", "other"}) {
      if (fault.kind == known) return fault;
    }
  }
  throw UsageError("THRESHER_COMM_FAULT=" + std::string(text) + " is malformed",
                   "<rank>:<call>:kill, exit, crash, stop, spin, delay=<seconds> or other");
}

}  // namespace

void inject_fault(int rank, std::uint64_t sequence, std::string& what) {
  static const std::optional<Fault> fault = read_fault();
  static std::atomic_flag was_injected = ATOMIC_FLAG_INIT;
  if (!fault || fault->rank != rank || sequence < fault->call || was_injected.test_and_set())
    return;
  if (fault->kind == "kill") raise(SIGKILL);
  if (fault->kind == "exit") _exit(7);
  if (fault->kind == "crash") raise(SIGSEGV);
  if (fault->kind == "stop") raise(SIGSTOP);
  if (fault->kind == "other") what = "another place";
  while (fault->kind == "spin") std::this_thread::sleep_for(std::chrono::milliseconds(10));
  std::this_thread::sleep_for(std::chrono::duration<double>(fault->seconds));
}

#else

void inject_fault(int, std::uint64_t, std::string&) {}

#endif

}  // namespace thresher::comm
