#include "tests/sae/test_devices.h"

namespace thresher::sae::testing {

std::vector<Device> devices() { return {Device::kCpu}; }
std::string missing(Device) { return {}; }

}  // namespace thresher::sae::testing
