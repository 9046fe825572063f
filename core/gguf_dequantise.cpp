#include <bit>
#include <cstring>

#include "core/error.h"
#include "core/gguf.h"
#include "core/gguf_blocks.h"
#include "core/gguf_parse.h"

namespace thresher {
namespace {

using gguf::load;
using gguf::load_byte;
using gguf::load_float16;

void dequantise_f32(const std::byte* block, float* out) { *out = load<float>(block); }
void dequantise_f16(const std::byte* block, float* out) { *out = load_float16(block); }
void dequantise_bf16(const std::byte* block, float* out) {
  *out = std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(block)) << 16);
}

// Value i of a block of 32 is the low nibble of byte i, value i + 16 its high one. Products come
// first, then the offset, as in the `gguf` package.
void dequantise_q4_0(const std::byte* block, float* out) {
  const float scale = load_float16(block);
  for (int i = 0; i < 16; ++i) {
    const unsigned pair = load_byte(block + 2 + i);
    out[i] = scale * static_cast<float>(static_cast<int>(pair & 0xFU) - 8);
    out[i + 16] = scale * static_cast<float>(static_cast<int>(pair >> 4) - 8);
  }
}

void dequantise_q4_1(const std::byte* block, float* out) {
  const float scale = load_float16(block);
  const float offset = load_float16(block + 2);
  for (int i = 0; i < 16; ++i) {
    const unsigned pair = load_byte(block + 4 + i);
    out[i] = scale * static_cast<float>(pair & 0xFU) + offset;
    out[i + 16] = scale * static_cast<float>(pair >> 4) + offset;
  }
}

// The fifth bit of value i is bit i of a 32-bit word.
unsigned fifth_bit(std::uint32_t word, int i) { return ((word >> i) & 1U) << 4; }

void dequantise_q5_0(const std::byte* block, float* out) {
  const float scale = load_float16(block);
  const auto high = load<std::uint32_t>(block + 2);
  for (int i = 0; i < 16; ++i) {
    const unsigned pair = load_byte(block + 6 + i);
    const unsigned first = (pair & 0xFU) | fifth_bit(high, i);
    const unsigned second = pair >> 4 | fifth_bit(high, i + 16);
    out[i] = scale * static_cast<float>(static_cast<int>(first) - 16);
    out[i + 16] = scale * static_cast<float>(static_cast<int>(second) - 16);
  }
}

void dequantise_q5_1(const std::byte* block, float* out) {
  const float scale = load_float16(block);
  const float offset = load_float16(block + 2);
  const auto high = load<std::uint32_t>(block + 4);
  for (int i = 0; i < 16; ++i) {
    const unsigned pair = load_byte(block + 8 + i);
    out[i] = scale * static_cast<float>((pair & 0xFU) | fifth_bit(high, i)) + offset;
    out[i + 16] = scale * static_cast<float>(pair >> 4 | fifth_bit(high, i + 16)) + offset;
  }
}

void dequantise_q8_0(const std::byte* block, float* out) {
  const float scale = load_float16(block);
  for (int i = 0; i < 32; ++i) {
    out[i] = static_cast<float>(load<std::int8_t>(block + 2 + i)) * scale;
  }
}

using Decoder = void (*)(const std::byte* block, float* out);

/// nullptr for types without a decoder.
Decoder decoder_of(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return dequantise_f32;
    case GgufType::kF16:
      return dequantise_f16;
    case GgufType::kBF16:
      return dequantise_bf16;
    case GgufType::kQ4_0:
      return dequantise_q4_0;
    case GgufType::kQ4_1:
      return dequantise_q4_1;
    case GgufType::kQ5_0:
      return dequantise_q5_0;
    case GgufType::kQ5_1:
      return dequantise_q5_1;
    case GgufType::kQ8_0:
      return dequantise_q8_0;
    case GgufType::kQ2_K:
      return gguf::dequantise_q2_k;
    case GgufType::kQ3_K:
      return gguf::dequantise_q3_k;
    case GgufType::kQ4_K:
      return gguf::dequantise_q4_k;
    case GgufType::kQ5_K:
      return gguf::dequantise_q5_k;
    case GgufType::kQ6_K:
      return gguf::dequantise_q6_k;
  }
  return nullptr;
}

}  // namespace

bool gguf_can_dequantise(std::uint32_t type) {
  return decoder_of(static_cast<GgufType>(type)) != nullptr;
}

void gguf_dequantise(GgufType type, std::span<const std::byte> bytes, std::span<float> out) {
  const auto block = gguf_block(static_cast<std::uint32_t>(type));
  const Decoder decode = decoder_of(type);
  THRESHER_CHECK(block.has_value() && decode != nullptr, "gguf_dequantise: unknown block type");
  const std::uint64_t blocks = out.size() / block->elements;
  THRESHER_CHECK(blocks * block->elements == out.size() && blocks * block->bytes == bytes.size(),
                 "gguf_dequantise: bytes and values do not belong together");
  if (type == GgufType::kF32) {
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return;
  }
  for (std::uint64_t i = 0; i < blocks; ++i) {
    decode(bytes.data() + i * block->bytes, out.data() + i * block->elements);
  }
}

}  // namespace thresher
