#include "core/random.h"

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/hash.h"

namespace thresher {
namespace {

__extension__ using Uint128 = unsigned __int128;

constexpr double kTwoToMinus53 = 0x1.0p-53;
constexpr unsigned kFeistelRounds = 8;

std::uint64_t join(std::uint32_t low, std::uint32_t high) {
  return (static_cast<std::uint64_t>(high) << 32U) | low;
}

std::array<std::uint32_t, 2> split(std::uint64_t value) {
  return {static_cast<std::uint32_t>(value), static_cast<std::uint32_t>(value >> 32U)};
}

std::array<std::uint32_t, 4> draw(std::uint64_t key, std::uint64_t index, std::uint32_t round = 0) {
  const auto [low, high] = split(index);
  return philox4x32({low, high, round, 0}, split(key));
}

}  // namespace

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = 0xD2511F53ULL * counter[0];
    const std::uint64_t product1 = 0xCD9E8D57ULL * counter[2];
    const auto high0 = static_cast<std::uint32_t>(product0 >> 32U);
    const auto high1 = static_cast<std::uint32_t>(product1 >> 32U);
    counter = {high1 ^ counter[1] ^ key[0], static_cast<std::uint32_t>(product1),
               high0 ^ counter[3] ^ key[1], static_cast<std::uint32_t>(product0)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

RandomStream::RandomStream(std::uint64_t seed, std::string_view purpose)
    : key_(xxh3_64(purpose, seed)) {}

std::uint64_t RandomStream::bits(std::uint64_t index) const {
  const auto words = draw(key_, index);
  return join(words[0], words[1]);
}

double RandomStream::uniform(std::uint64_t index) const {
  return static_cast<double>(bits(index) >> 11U) * kTwoToMinus53;
}

double RandomStream::normal(std::uint64_t index) const {
  const auto words = draw(key_, index);
  // In (0, 1], so that the logarithm is finite.
  const double radius_draw =
      static_cast<double>((join(words[0], words[1]) >> 11U) + 1) * kTwoToMinus53;
  const double angle_draw = static_cast<double>(join(words[2], words[3]) >> 11U) * kTwoToMinus53;
  return std::sqrt(-2.0 * std::log(radius_draw)) * std::cos(2.0 * std::numbers::pi * angle_draw);
}

std::uint64_t RandomStream::below(std::uint64_t index, std::uint64_t bound) const {
  THRESHER_CHECK(bound >= 1, "below() needs a bound of at least 1");
  return static_cast<std::uint64_t>((static_cast<Uint128>(bits(index)) * bound) >> 64U);
}

Permutation::Permutation(std::uint64_t size, std::uint64_t seed, std::string_view purpose)
    : size_(size), key_(xxh3_64(purpose, seed)) {
  // The smallest square that holds the range: at most 2 sqrt(size) numbers outside, so walks are
  // rare.
  side_ = static_cast<std::uint64_t>(std::sqrt(static_cast<double>(size)));
  while (static_cast<Uint128>(side_) * side_ < size) ++side_;
  while (side_ > 1 && static_cast<Uint128>(side_ - 1) * (side_ - 1) >= size) --side_;
}

std::uint64_t Permutation::operator()(std::uint64_t index) const {
  THRESHER_CHECK(index < size_, "index outside the permutation");
  do {
    std::uint64_t left = index / side_;
    std::uint64_t right = index % side_;
    for (std::uint32_t round = 0; round < kFeistelRounds; ++round) {
      const auto words = draw(key_, right, round + 1);
      const auto shift = static_cast<std::uint64_t>(
          (static_cast<Uint128>(join(words[0], words[1])) * side_) >> 64U);
      const std::uint64_t sum = left + shift;
      left = right;
      right = sum >= side_ ? sum - side_ : sum;
    }
    index = left * side_ + right;
  } while (index >= size_);
  return index;
}

}  // namespace thresher
