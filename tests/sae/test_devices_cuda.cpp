#include "comm/gpu.h"
#include "core/error.h"
#include "tests/sae/test_devices.h"

namespace thresher::sae::testing {

std::vector<Device> devices() { return {Device::kCuda}; }

std::string missing(Device) {
  try {
    comm::list_gpus();
  } catch (const DeviceError& error) {
    return error.first_line();
  }
  return {};
}

}  // namespace thresher::sae::testing
