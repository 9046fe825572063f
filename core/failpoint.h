#pragma once

#include <string_view>

namespace thresher {

/// What a test wants to happen to one file call.
struct Fault {
  int error = 0;          // an errno value; 0: none
  bool is_short = false;  // writes half of what it should
};

/// Counts an arrival at `name` and says what THRESHER_FAILPOINT (docs: CONTRIBUTING.md) demands of
/// it; a demanded kill or pause happens here. UsageError if the setting is malformed. Nothing,
/// ever, with THRESHER_FAILPOINTS=OFF.
Fault arrive_at(std::string_view name);

}  // namespace thresher
