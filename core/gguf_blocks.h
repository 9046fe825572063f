#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace thresher::gguf {

/// One block in, its values out: 256 for each of these types. The layouts are those of
/// ggml-quants.h, the order of float32 operations that of the `gguf` Python package: products
/// first, then the offset, no FMA.
void dequantise_q2_k(const std::byte* block, float* out);
void dequantise_q3_k(const std::byte* block, float* out);
void dequantise_q4_k(const std::byte* block, float* out);
void dequantise_q5_k(const std::byte* block, float* out);
void dequantise_q6_k(const std::byte* block, float* out);

template <class T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

/// As core/dtype.h, but a NaN keeps its bits, as the `gguf` package has it.
inline float float_from_float16(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1FU;
  const std::uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0) {
    // Zero or subnormal: mantissa * 2^-24 is exact in float32.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  const std::uint32_t wide_exponent = exponent == 0x1F ? 0xFFU : exponent + 112;
  return std::bit_cast<float>(sign | wide_exponent << 23 | mantissa << 13);
}

inline float load_float16(const std::byte* bytes) {
  return float_from_float16(load<std::uint16_t>(bytes));
}

inline unsigned load_byte(const std::byte* bytes) { return static_cast<unsigned>(*bytes); }

}  // namespace thresher::gguf
