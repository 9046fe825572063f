#include "core/dtype.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/error.h"

namespace thresher {
namespace {

template <class Element, class Convert>
void encode_each(std::span<const float> values, std::span<std::byte> out, Convert convert) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const Element element = convert(values[i]);
    std::memcpy(out.data() + i * sizeof(Element), &element, sizeof(Element));
  }
}

template <class Element, class Convert>
void decode_each(std::span<const std::byte> bytes, std::span<float> out, Convert convert) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    Element element;
    std::memcpy(&element, bytes.data() + i * sizeof(Element), sizeof(Element));
    out[i] = convert(element);
  }
}

std::uint16_t round_to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U;
  const std::uint32_t quiet_nan = (bits >> 16U) | 0x40U;
  const bool is_nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
  return static_cast<std::uint16_t>(is_nan ? quiet_nan : rounded);
}

float widen_bfloat16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U);
}

#if defined(__x86_64__)
bool has_half_instructions() {
  // Every processor with AVX2 has F16C, and only GCC can be asked for F16C itself.
  static const bool has = __builtin_cpu_supports("avx2") != 0;
  return has;
}

// Both return how many elements they did: the whole eights.
__attribute__((target("avx,f16c"))) std::size_t encode_float16_by_eights(
    std::span<const float> values, std::span<std::byte> out) {
  std::size_t i = 0;
  for (; i + 8 <= values.size(); i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(values.data() + i),
                                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    std::memcpy(out.data() + 2 * i, &half, sizeof(half));
  }
  return i;
}

__attribute__((target("avx,f16c"))) std::size_t decode_float16_by_eights(
    std::span<const std::byte> bytes, std::span<float> out) {
  std::size_t i = 0;
  for (; i + 8 <= out.size(); i += 8) {
    __m128i half;
    std::memcpy(&half, bytes.data() + 2 * i, sizeof(half));
    _mm256_storeu_ps(out.data() + i, _mm256_cvtph_ps(half));
  }
  return i;
}
#else
bool has_half_instructions() { return false; }
std::size_t encode_float16_by_eights(std::span<const float>, std::span<std::byte>) { return 0; }
std::size_t decode_float16_by_eights(std::span<const std::byte>, std::span<float>) { return 0; }
#endif

}  // namespace

std::size_t dtype_bytes(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

std::string_view dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat32:
      return "float32";
    case Dtype::kFloat16:
      return "float16";
    case Dtype::kBfloat16:
      return "bfloat16";
  }
  THRESHER_CHECK(false, "a Dtype outside its enumeration");
}

Dtype parse_dtype(std::string_view name) {
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat16, Dtype::kBfloat16}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  throw ConfigError(fmt::format("dtype \"{}\" is not known", name), "float32, float16 or bfloat16");
}

std::uint16_t float_to_bfloat16(float value) { return round_to_bfloat16(value); }

float bfloat16_to_float(std::uint16_t bits) { return widen_bfloat16(bits); }

std::uint16_t float_to_float16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16U) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) {  // NaN: quiet, the payload's upper bits kept
    return static_cast<std::uint16_t>(sign | 0x7E00U | ((magnitude >> 13U) & 0x3FFU));
  }
  if (magnitude >= 0x477FF000U) return static_cast<std::uint16_t>(sign | 0x7C00U);  // >= 65520
  if (magnitude < 0x38800000U) {  // below 2^-14: the result counts steps of 2^-24
    // Adding 0.5 puts steps of 2^-24 at the end of the mantissa; the addition itself rounds to
    // even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000U));
  }
  const std::uint32_t rebased = magnitude - (112U << 23U);
  const std::uint32_t rounded = rebased + 0xFFFU + ((rebased >> 13U) & 1U);
  return static_cast<std::uint16_t>(sign | (rounded >> 13U));
}

float float16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16U;
  const std::uint32_t magnitude = bits & 0x7FFFU;
  if (magnitude > 0x7C00U) {  // NaN becomes quiet, as the instructions make it
    return std::bit_cast<float>(sign | 0x7FC00000U | (magnitude << 13U));
  }
  if (magnitude == 0x7C00U) return std::bit_cast<float>(sign | 0x7F800000U);
  if (magnitude < 0x0400U) {  // subnormal: magnitude steps of 2^-24
    const float value = static_cast<float>(magnitude) * 0x1.0p-24F;
    return (bits & 0x8000U) != 0 ? -value : value;
  }
  return std::bit_cast<float>(sign | ((magnitude << 13U) + (112U << 23U)));
}

void encode_values(Dtype dtype, std::span<const float> values, std::span<std::byte> out) {
  THRESHER_CHECK(out.size() == values.size() * dtype_bytes(dtype), "encode_values: wrong size");
  if (dtype == Dtype::kFloat32) {
    if (!values.empty()) std::memcpy(out.data(), values.data(), out.size());
  } else if (dtype == Dtype::kBfloat16) {
    encode_each<std::uint16_t>(values, out, round_to_bfloat16);
  } else {
    const std::size_t done = has_half_instructions() ? encode_float16_by_eights(values, out) : 0;
    encode_each<std::uint16_t>(values.subspan(done), out.subspan(2 * done), float_to_float16);
  }
}

void decode_values(Dtype dtype, std::span<const std::byte> bytes, std::span<float> out) {
  THRESHER_CHECK(bytes.size() == out.size() * dtype_bytes(dtype), "decode_values: wrong size");
  if (dtype == Dtype::kFloat32) {
    if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  } else if (dtype == Dtype::kBfloat16) {
    decode_each<std::uint16_t>(bytes, out, widen_bfloat16);
  } else {
    const std::size_t done = has_half_instructions() ? decode_float16_by_eights(bytes, out) : 0;
    decode_each<std::uint16_t>(bytes.subspan(2 * done), out.subspan(done), float16_to_float);
  }
}

}  // namespace thresher
