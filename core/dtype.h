#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace thresher {

/// Element types of activations and weights on disk.
enum class Dtype { kFloat32, kFloat16, kBfloat16 };

std::size_t dtype_bytes(Dtype dtype);
/// "float32", "float16" or "bfloat16", as written in configs and caches.
std::string_view dtype_name(Dtype dtype);
/// Throws ConfigError naming the three accepted names.
Dtype parse_dtype(std::string_view name);

/// IEEE conversions, round to nearest even; NaN stays NaN, float16 overflow becomes infinity.
std::uint16_t float_to_bfloat16(float value);
float bfloat16_to_float(std::uint16_t bits);
std::uint16_t float_to_float16(float value);
float float16_to_float(std::uint16_t bits);

/// Converts a row of values; `out` holds values.size() * dtype_bytes(dtype) bytes, native byte
/// order.
void encode_values(Dtype dtype, std::span<const float> values, std::span<std::byte> out);
void decode_values(Dtype dtype, std::span<const std::byte> bytes, std::span<float> out);

}  // namespace thresher
