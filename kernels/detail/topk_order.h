#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/detail/device_code.h"

namespace thresher::kernels::detail {

/// A number that orders floats as topk does: larger is better, NaN above infinity, -0 equal to +0.
THRESHER_DEVICE inline std::uint32_t topk_key(float value) {
  if (value != value) return 0xffffffffU;
  const float canonical = value + 0.0f;  // -0 becomes +0
  std::uint32_t bits;
  memcpy(&bits, &canonical, sizeof(bits));
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

THRESHER_DEVICE inline float not_a_number() {
  const std::uint32_t bits = 0x7fc00000U;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

/// Key and position in one number; larger is better, and among equal keys the lower index is.
THRESHER_DEVICE inline std::uint64_t topk_entry(float value, std::uint32_t index) {
  return (static_cast<std::uint64_t>(topk_key(value)) << 32) | (0xffffffffU - index);
}

/// The value of an entry; -0 has become +0.
THRESHER_DEVICE inline float topk_value(std::uint64_t entry) {
  const auto key = static_cast<std::uint32_t>(entry >> 32);
  const std::uint32_t bits = (key & 0x80000000U) != 0 ? key & 0x7fffffffU : ~key;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

THRESHER_DEVICE inline std::int32_t topk_index(std::uint64_t entry) {
  return static_cast<std::int32_t>(0xffffffffU - static_cast<std::uint32_t>(entry));
}

}  // namespace thresher::kernels::detail
