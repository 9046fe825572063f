#pragma once

#include <cstdint>
#include <string>

namespace thresher::comm {

/// A fault in one call of one rank, for tests of what the others do then. The environment's
/// THRESHER_COMM_FAULT=<rank>:<call>:<fault> says which: the call is the first of that rank whose
/// sequence number is at least <call>; <fault> is kill (SIGKILL), exit (_exit(7)), crash (SIGSEGV),
/// stop (SIGSTOP), spin (an endless loop), delay=<seconds>, or other (the call takes another name,
/// as if the rank had come to another place of the program). Compiled out with
/// THRESHER_FAILPOINTS=OFF. UsageError when the setting is malformed.
void inject_fault(int rank, std::uint64_t sequence, std::string& what);

}  // namespace thresher::comm
