#include <bit>
#include <cstring>

#include "core/error.h"
#include "core/gguf.h"
#include "core/gguf_parse.h"

namespace thresher {
namespace {

template <class T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

float float_from_bfloat16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

float float_from_float16(std::uint16_t bits) {
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

// The order of the float32 operations below is the `gguf` package's: products first, then the
// offset, no FMA.
void dequantise_q4_1(const std::byte* block, float* out) {
  const float scale = float_from_float16(load<std::uint16_t>(block));
  const float offset = float_from_float16(load<std::uint16_t>(block + 2));
  for (int i = 0; i < 16; ++i) {
    const auto pair = static_cast<unsigned>(block[4 + i]);
    out[i] = scale * static_cast<float>(pair & 0xFU) + offset;
    out[i + 16] = scale * static_cast<float>(pair >> 4) + offset;
  }
}

void dequantise_q8_0(const std::byte* block, float* out) {
  const float scale = float_from_float16(load<std::uint16_t>(block));
  for (int i = 0; i < 32; ++i) {
    out[i] = static_cast<float>(load<std::int8_t>(block + 2 + i)) * scale;
  }
}

}  // namespace

void gguf_dequantise(GgufType type, std::span<const std::byte> bytes, std::span<float> out) {
  const auto block = gguf_block(static_cast<std::uint32_t>(type));
  THRESHER_CHECK(block.has_value(), "gguf_dequantise: unknown block type");
  const std::uint64_t blocks = out.size() / block->elements;
  THRESHER_CHECK(blocks * block->elements == out.size() && blocks * block->bytes == bytes.size(),
                 "gguf_dequantise: bytes and values do not belong together");
  const std::byte* in = bytes.data();
  float* values = out.data();
  switch (type) {
    case GgufType::kF32:
      if (!bytes.empty()) std::memcpy(values, in, bytes.size());
      return;
    case GgufType::kF16:
      for (std::uint64_t i = 0; i < blocks; ++i) {
        values[i] = float_from_float16(load<std::uint16_t>(in + 2 * i));
      }
      return;
    case GgufType::kBF16:
      for (std::uint64_t i = 0; i < blocks; ++i) {
        values[i] = float_from_bfloat16(load<std::uint16_t>(in + 2 * i));
      }
      return;
    case GgufType::kQ4_1:
      for (std::uint64_t i = 0; i < blocks; ++i) dequantise_q4_1(in + 20 * i, values + 32 * i);
      return;
    case GgufType::kQ8_0:
      for (std::uint64_t i = 0; i < blocks; ++i) dequantise_q8_0(in + 34 * i, values + 32 * i);
      return;
  }
  THRESHER_CHECK(false, "gguf_dequantise: block type without a decoder");
}

}  // namespace thresher
