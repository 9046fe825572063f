#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "core/files.h"

namespace thresher {

#if defined(THRESHER_FAILPOINTS)

void failpoint(const char* name) {
  static std::atomic<long> calls{0};
  const char* setting = std::getenv("THRESHER_FAILPOINT");
  if (setting == nullptr) return;
  const std::string_view text(setting);
  const std::size_t colon = text.rfind(':');
  long due = 0;
  if (colon != std::string_view::npos) {
    std::from_chars(text.data() + colon + 1, text.data() + text.size(), due);
  }
  if (due < 1) {
    throw UsageError("THRESHER_FAILPOINT=" + std::string(text) + " is malformed",
                     "THRESHER_FAILPOINT=<name>:<count>, count at least 1");
  }
  if (text.substr(0, colon) == name && calls.fetch_add(1) + 1 == due) raise(SIGKILL);
}

#else

void failpoint(const char*) {}

#endif

}  // namespace thresher
