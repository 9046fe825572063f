#include "comm/gpu.h"

#include "core/error.h"

namespace thresher::comm {

int gpu_of(const HostPlace& place, std::size_t n_gpus) {
  THRESHER_CHECK(n_gpus > 0, "a rank's device is one of those there are");
  return place.rank_on_host % static_cast<int>(n_gpus);
}

}  // namespace thresher::comm
