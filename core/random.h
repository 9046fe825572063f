#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace thresher {

/// Philox4x32-10 (Salmon et al. 2011): a pure function from (key, counter) to 128 random bits.
/// There is no state, so nothing has to be saved, and the number of ranks cannot change a draw.
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key);

/// Draws for one purpose. Streams with another seed or purpose are independent.
class RandomStream {
 public:
  /// `purpose` names what the draws are for, e.g. "sae.topk.W_dec"; it is hashed with the seed.
  RandomStream(std::uint64_t seed, std::string_view purpose);

  std::uint64_t bits(std::uint64_t index) const;
  /// Uniform in [0, 1), 53 bits.
  double uniform(std::uint64_t index) const;
  /// Standard normal (Box-Muller on the index's own 128 bits).
  double normal(std::uint64_t index) const;
  /// Uniform in [0, bound), bound >= 1, without modulo bias worth measuring (64-bit
  /// multiply-shift).
  std::uint64_t below(std::uint64_t index, std::uint64_t bound) const;
  std::uint64_t key() const { return key_; }

 private:
  std::uint64_t key_;
};

/// A keyed bijection of [0, size), size <= 2^63: Feistel rounds over Philox on the smallest square
/// that holds the range, and a walk back in from the few numbers outside it. O(1) memory and time.
class Permutation {
 public:
  Permutation(std::uint64_t size, std::uint64_t seed, std::string_view purpose);
  std::uint64_t size() const { return size_; }
  std::uint64_t operator()(std::uint64_t index) const;  // index < size

 private:
  std::uint64_t size_;
  std::uint64_t key_;
  std::uint64_t side_ = 0;  // of the square
};

}  // namespace thresher
