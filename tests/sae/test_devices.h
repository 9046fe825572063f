#pragma once

#include <string>
#include <vector>

#include "core/device.h"

namespace thresher::sae::testing {

/// The devices that this test program is for.
std::vector<Device> devices();
/// Why there is none of that kind here; empty if there is.
std::string missing(Device device);

}  // namespace thresher::sae::testing
