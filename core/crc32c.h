#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

/// The two ways to a CRC-32C, apart so that a test can compare them. Everyone else calls crc32c of
/// core/hash.h.
namespace thresher::detail {

std::uint32_t crc32c_by_table(std::span<const std::byte> bytes, std::uint32_t seed);
bool has_crc32c_instruction();
/// Only where has_crc32c_instruction() is true.
std::uint32_t crc32c_by_instruction(std::span<const std::byte> bytes, std::uint32_t seed);

}  // namespace thresher::detail
