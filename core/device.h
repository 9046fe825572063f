#pragma once

#include <string_view>

namespace thresher {

enum class Device { kCpu, kCuda };

/// "cpu" or "cuda".
constexpr std::string_view device_name(Device device) { return device == Device::kCpu ? "cpu" : "cuda"; }

}  // namespace thresher
