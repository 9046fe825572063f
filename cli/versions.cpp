#include "cli/versions.h"

#include <ATen/ATen.h>
#include <ATen/Version.h>
#include <thresher_commit.h>
#include <torch/headeronly/version.h>

#include "activation_cache/cache.h"
#include "comm/communicator.h"
#include "core/version.h"

namespace thresher::cli {

Json versions_json() {
  return Json::object({{"thresher", kVersion},
                       {"commit", THRESHER_COMMIT},
                       {"build", THRESHER_BUILD_TYPE},
                       {"numerics", kNumericsVersion},
                       {"torch", TORCH_VERSION},
                       {"hdf5", activation_cache::hdf5_version()},
                       {"mpi", comm::mpi_library_version()},
                       {"compiler", __VERSION__},
                       {"cpu_capability", at::get_cpu_capability()}});
}

}  // namespace thresher::cli
