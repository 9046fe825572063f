#pragma once

#include "comm/communicator.h"

namespace thresher::comm {

/// What every backend must do, for any number of ranks. Each function is one test's body on one
/// rank.
void check_sums_are_exact(Communicator& comm);
void check_reduce_follows_the_tree(Communicator& comm);
void check_long_buffers(Communicator& comm);
void check_min_and_max(Communicator& comm);
void check_gather(Communicator& comm);
void check_broadcast(Communicator& comm);
void check_place_on_host(Communicator& comm);
void check_agree(Communicator& comm);
void check_nothing_to_send(Communicator& comm);

}  // namespace thresher::comm
