#include "core/gguf_blocks.h"

namespace thresher::gguf {
namespace {

constexpr int kElements = 256;

/// The 6-bit scales and offsets of the eight groups of 32 values in a Q4_K or Q5_K block, packed in
/// 12 bytes: the first four of each whole in bytes 0-3 and 4-7, the last four with their low bits
/// in bytes 8-11 and their high bits on top of the first eight bytes.
struct SixBitScales {
  explicit SixBitScales(const std::byte* packed) : packed_(packed) {}
  float scale(int group) const { return unpack(group, 0, 0); }
  float offset(int group) const { return unpack(group, 4, 4); }

 private:
  float unpack(int group, int first_byte, int low_shift) const {
    if (group < 4) return static_cast<float>(load_byte(packed_ + first_byte + group) & 0x3FU);
    const unsigned low = (load_byte(packed_ + 8 + group - 4) >> low_shift) & 0xFU;
    const unsigned high = (load_byte(packed_ + first_byte + group - 4) >> 2) & 0x30U;
    return static_cast<float>(low | high);
  }
  const std::byte* packed_;
};

}  // namespace

// 16 bytes of scale and offset (4 bits each) of 16 values, 64 bytes of 2-bit values, two float16.
void dequantise_q2_k(const std::byte* block, float* out) {
  const std::byte* quants = block + 16;
  const float scale = load_float16(block + 80);
  const float offset = load_float16(block + 82);
  for (int group = 0; group < kElements / 16; ++group) {
    const unsigned packed = load_byte(block + group);
    const float group_scale = scale * static_cast<float>(packed & 0xFU);
    const float group_offset = offset * static_cast<float>(packed >> 4);
    for (int i = 16 * group; i < 16 * group + 16; ++i) {
      const unsigned byte = load_byte(quants + i / 128 * 32 + i % 32);
      out[i] = group_scale * static_cast<float>((byte >> (i % 128 / 32 * 2)) & 3U) - group_offset;
    }
  }
}

// 32 bytes of high bits, 64 bytes of low 2 bits, 12 bytes of 6-bit scales, one float16.
void dequantise_q3_k(const std::byte* block, float* out) {
  const std::byte* quants = block + 32;
  const std::byte* scales = block + 96;
  const float scale = load_float16(block + 108);
  for (int group = 0; group < kElements / 16; ++group) {
    const unsigned low = (load_byte(scales + group % 8) >> (group / 8 * 4)) & 0xFU;
    const unsigned high = (load_byte(scales + 8 + group % 4) >> (group / 4 * 2)) & 3U;
    const float group_scale = scale * static_cast<float>(static_cast<int>(low | high << 4) - 32);
    for (int i = 16 * group; i < 16 * group + 16; ++i) {
      const unsigned byte = load_byte(quants + i / 128 * 32 + i % 32);
      const unsigned is_high = (load_byte(block + i % 32) >> (i / 32)) & 1U;
      // A set bit means no subtraction.
      const int quant =
          static_cast<int>((byte >> (i % 128 / 32 * 2)) & 3U) - (is_high != 0 ? 0 : 4);
      out[i] = group_scale * static_cast<float>(quant);
    }
  }
}

// Two float16, 12 bytes of 6-bit scales and offsets, 128 bytes of 4-bit values.
void dequantise_q4_k(const std::byte* block, float* out) {
  const float scale = load_float16(block);
  const float offset = load_float16(block + 2);
  const SixBitScales groups(block + 4);
  const std::byte* quants = block + 16;
  for (int group = 0; group < kElements / 32; ++group) {
    const float group_scale = scale * groups.scale(group);
    const float group_offset = offset * groups.offset(group);
    for (int i = 0; i < 32; ++i) {
      const unsigned quant = (load_byte(quants + group / 2 * 32 + i) >> (group % 2 * 4)) & 0xFU;
      out[32 * group + i] = group_scale * static_cast<float>(quant) - group_offset;
    }
  }
}

// As Q4_K, with 32 bytes of fifth bits (bit `group` of byte i) before the 4-bit values.
void dequantise_q5_k(const std::byte* block, float* out) {
  const float scale = load_float16(block);
  const float offset = load_float16(block + 2);
  const SixBitScales groups(block + 4);
  const std::byte* high_bits = block + 16;
  const std::byte* quants = block + 48;
  for (int group = 0; group < kElements / 32; ++group) {
    const float group_scale = scale * groups.scale(group);
    const float group_offset = offset * groups.offset(group);
    for (int i = 0; i < 32; ++i) {
      const unsigned low = (load_byte(quants + group / 2 * 32 + i) >> (group % 2 * 4)) & 0xFU;
      const unsigned high = (load_byte(high_bits + i) >> group) & 1U;
      out[32 * group + i] = group_scale * static_cast<float>(low | high << 4) - group_offset;
    }
  }
}

// 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 signed scales of 16 values, one float16.
void dequantise_q6_k(const std::byte* block, float* out) {
  const std::byte* high_bits = block + 128;
  const std::byte* scales = block + 192;
  const float scale = load_float16(block + 208);
  for (int group = 0; group < kElements / 16; ++group) {
    const float group_scale = scale * static_cast<float>(load<std::int8_t>(scales + group));
    for (int i = 16 * group; i < 16 * group + 16; ++i) {
      const int half = i / 128, within = i % 128;
      const unsigned low = (load_byte(block + half * 64 + within % 64) >> (within / 64 * 4)) & 0xFU;
      const unsigned high =
          (load_byte(high_bits + half * 32 + within % 32) >> (within / 32 * 2)) & 3U;
      out[i] = group_scale * static_cast<float>(static_cast<int>(low | high << 4) - 32);
    }
  }
}

}  // namespace thresher::gguf
