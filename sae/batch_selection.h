#pragma once

#include <cstdint>
#include <string_view>

#include "comm/communicator.h"
#include "kernels/encode_select.h"

namespace thresher::sae {

/// What BatchTopK keeps: the `count` largest values of the global batch.
struct BatchCut {
  std::int64_t kept = 0;  // over all ranks; less than `count` if there were not so many
  float smallest = 0;     // the smallest value kept; 0 if none was
};

/// Leaves in `pairs` (values above 0, this rank's rows) those that are among the `count` largest
/// of all ranks' pairs. Of equal values the earlier row is kept, and in a row the lower latent;
/// ranks own consecutive rows. So the result is that of one rank that has all rows. Collective:
/// three counts of 2,048 bins and one of the ranks are exchanged, whatever the batch.
BatchCut keep_largest_of_batch(kernels::SelectedPairs& pairs, std::int64_t count,
                               comm::Communicator& comm, std::string_view what);

}  // namespace thresher::sae
