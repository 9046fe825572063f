#include "tests/kernels/backends.h"

namespace thresher::kernels {

std::vector<Backend*> backends_under_test() { return {cpu_backend(), device_code_backend()}; }

}  // namespace thresher::kernels
