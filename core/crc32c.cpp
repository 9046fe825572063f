#include <array>
#include <cstring>

#include "core/crc32c.h"
#include "core/hash.h"

namespace thresher {
namespace {

constexpr std::uint32_t kReversedPolynomial = 0x82F63B78U;

// tables[k][b]: the CRC of byte b followed by k zero bytes, so that eight bytes need eight
// independent look-ups.
using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1U) ^ ((crc & 1U) != 0U ? kReversedPolynomial : 0U);
    }
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < tables.size(); ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8U) ^ tables[0][before & 0xFFU];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace

namespace detail {

std::uint32_t crc32c_by_table(std::span<const std::byte> bytes, std::uint32_t seed) {
  std::uint32_t crc = ~seed;
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::array<std::uint8_t, 8> b{};
    std::memcpy(b.data(), bytes.data() + i, 8);
    for (std::size_t j = 0; j < 4; ++j) {
      b[j] = static_cast<std::uint8_t>(b[j] ^ (crc >> (8 * j)));
    }
    crc = 0;
    for (std::size_t j = 0; j < 8; ++j) crc ^= kTables[7 - j][b[j]];
  }
  for (; i < bytes.size(); ++i) {
    crc = (crc >> 8U) ^ kTables[0][(crc ^ std::to_integer<std::uint32_t>(bytes[i])) & 0xFFU];
  }
  return ~crc;
}

#if defined(__x86_64__)
bool has_crc32c_instruction() { return __builtin_cpu_supports("sse4.2") != 0; }

__attribute__((target("sse4.2"))) std::uint32_t crc32c_by_instruction(
    std::span<const std::byte> bytes, std::uint32_t seed) {
  std::uint64_t crc = ~seed;
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, 8);
    crc = __builtin_ia32_crc32di(crc, word);
  }
  auto crc32 = static_cast<std::uint32_t>(crc);
  for (; i < bytes.size(); ++i) {
    crc32 = __builtin_ia32_crc32qi(crc32, std::to_integer<std::uint8_t>(bytes[i]));
  }
  return ~crc32;
}
#else
bool has_crc32c_instruction() { return false; }

std::uint32_t crc32c_by_instruction(std::span<const std::byte> bytes, std::uint32_t seed) {
  return crc32c_by_table(bytes, seed);
}
#endif

}  // namespace detail

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t seed) {
  static const bool use_instruction = detail::has_crc32c_instruction();
  return use_instruction ? detail::crc32c_by_instruction(bytes, seed)
                         : detail::crc32c_by_table(bytes, seed);
}

}  // namespace thresher
