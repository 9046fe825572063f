#pragma once

#include <string_view>

#include "comm/communicator.h"
#include "core/json.h"

namespace thresher::comm {

/// Compares every rank's `facts` with rank 0's and throws the same ConfigError on every rank when
/// any differ, naming the ranks, the first field that differs and both values. For what must be the
/// same everywhere before work begins: the program, its libraries, the configuration, the cache.
/// `what` begins the message: "the experiment". Collective.
void agree_on(Communicator& comm, const Json& facts, std::string_view what);

}  // namespace thresher::comm
