#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/detail/device_code.h"

namespace thresher::kernels::detail {

/// To nearest, ties to even; NaN stays NaN.
THRESHER_DEVICE inline std::uint16_t to_bfloat16(float value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if (value != value) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

THRESHER_DEVICE inline float from_bfloat16(std::uint16_t value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float out;
  memcpy(&out, &bits, sizeof(out));
  return out;
}

}  // namespace thresher::kernels::detail
