#include "cli/versions.h"

#include <ATen/ATen.h>
#include <ATen/Version.h>
#include <torch/headeronly/version.h>

#include "core/version.h"

namespace thresher::cli {

Json versions_json() {
  return Json::object({{"thresher", kVersion},
                       {"numerics", kNumericsVersion},
                       {"torch", TORCH_VERSION},
                       {"compiler", __VERSION__},
                       {"cpu_capability", at::get_cpu_capability()}});
}

}  // namespace thresher::cli
