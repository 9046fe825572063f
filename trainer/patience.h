#pragma once

#include <functional>
#include <string_view>

#include "comm/communicator.h"

namespace thresher::trainer {

/// Runs `work` on rank 0 while the others wait for as long as it takes: every call of a
/// communicator has a deadline, so the ranks meet again and again until rank 0 has finished. Throws
/// rank 0's error on every rank. Collective.
void run_on_root(comm::Communicator& comm, const std::function<void()>& work,
                 std::string_view what);

}  // namespace thresher::trainer
