#include "core/failpoint.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/files.h"

namespace thresher {

#if defined(THRESHER_FAILPOINTS)

namespace {

/// <name>:<count>[+][=<action>]
struct Setting {
  std::string_view name;  // with a '*' at its end: every name that begins so
  long count = 0;
  bool is_lasting = false;
  std::string_view action = "kill";
  std::chrono::milliseconds pause{};  // of action "pause..."

  bool matches(std::string_view arrival) const {
    if (name.ends_with('*')) return arrival.starts_with(name.substr(0, name.size() - 1));
    return arrival == name;
  }
};

constexpr std::array kErrors = {std::pair("EIO", EIO), std::pair("ENOSPC", ENOSPC),
                                std::pair("EDQUOT", EDQUOT), std::pair("EACCES", EACCES),
                                std::pair("EINTR", EINTR)};

[[noreturn]] void throw_malformed(std::string_view text) {
  throw UsageError(
      "THRESHER_FAILPOINT=" + std::string(text) + " is malformed",
      "THRESHER_FAILPOINT=<name>:<count>[+][=<action>], count at least 1, action kill, "
      "pause<milliseconds>, short, EIO, ENOSPC, EDQUOT, EACCES or EINTR; only errors and pauses "
      "may last (+), and only file calls (file.*, read.*) may fail");
}

long read_count(std::string_view digits, std::string_view text) {
  long count = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), count);
  if (error != std::errc() || end != digits.data() + digits.size() || count < 1) {
    throw_malformed(text);
  }
  return count;
}

Setting parse(std::string_view text) {
  Setting setting;
  const std::string_view head = text.substr(0, text.find('='));
  if (head.size() < text.size()) setting.action = text.substr(head.size() + 1);
  const std::size_t colon = head.rfind(':');
  if (colon == std::string_view::npos) throw_malformed(text);
  setting.name = head.substr(0, colon);
  std::string_view count = head.substr(colon + 1);
  setting.is_lasting = count.ends_with('+');
  if (setting.is_lasting) count.remove_suffix(1);
  setting.count = read_count(count, text);
  constexpr std::string_view kPause = "pause";
  if (setting.action.starts_with(kPause)) {
    setting.pause =
        std::chrono::milliseconds(read_count(setting.action.substr(kPause.size()), text));
  }
  return setting;
}

Fault fault_of(const Setting& setting, std::string_view text) {
  const bool is_once_only = setting.action == "short" || setting.action == "EINTR";
  if (setting.is_lasting && (is_once_only || setting.action == "kill")) throw_malformed(text);
  if (setting.action == "kill" || setting.pause.count() > 0) return {};
  if (!setting.name.starts_with("file.") && !setting.name.starts_with("read.")) {
    throw_malformed(text);
  }
  if (setting.action == "short") return {0, true};
  for (const auto& [name, value] : kErrors) {
    if (setting.action == name) return {value, false};
  }
  throw_malformed(text);
}

}  // namespace

Fault arrive_at(std::string_view name) {
  static std::atomic<long> arrivals{0};
  const char* text = std::getenv("THRESHER_FAILPOINT");
  if (text == nullptr) return {};
  const Setting setting = parse(text);
  const Fault fault = fault_of(setting, text);
  if (!setting.matches(name)) return {};
  const long arrival = arrivals.fetch_add(1) + 1;
  if (arrival != setting.count && !(setting.is_lasting && arrival > setting.count)) return {};
  if (setting.action == "kill") raise(SIGKILL);
  if (setting.pause.count() > 0) std::this_thread::sleep_for(setting.pause);
  return fault;
}

#else

Fault arrive_at(std::string_view) { return {}; }

#endif

void failpoint(const char* name) { arrive_at(name); }

}  // namespace thresher
