#include "tests/kernels/backends.h"
#include "tests/kernels/step_backend.h"

namespace thresher::kernels {

std::vector<Backend*> backends_under_test() { return {cpu_backend(), device_code_backend()}; }
std::vector<StepBackend*> step_backends_under_test() {
  return {cpu_step_backend(), device_code_step_backend()};
}

}  // namespace thresher::kernels
