#pragma once

#include <cstdint>
#include <iterator>
#include <random>
#include <vector>

#include "tests/kernels/backend.h"

namespace thresher::kernels {

/// Reproducible draws for shapes and values; fixed seed a test.
class Draws {
 public:
  explicit Draws(std::uint32_t seed) : engine_(seed) {}
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }
  float real() {  // about normal; the sum of uniforms is the same on every machine
    float sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(engine_() >> 8) / 16777216.0f - 0.5f;
    return sum;
  }
  std::vector<float> reals(std::int64_t count) {
    std::vector<float> out(static_cast<std::size_t>(count));
    for (float& value : out) value = real();
    return out;
  }
  /// Small integers: all sums of products are exact in float.
  std::vector<float> integers(std::int64_t count) {
    std::vector<float> out(static_cast<std::size_t>(count));
    for (float& value : out) value = static_cast<float>(integer(-8, 8));
    return out;
  }
  std::vector<std::int32_t> latents(std::int64_t count, std::int64_t n_latents) {
    std::vector<std::int32_t> out(static_cast<std::size_t>(count));
    for (auto& latent : out) latent = static_cast<std::int32_t>(integer(0, n_latents - 1));
    return out;
  }
  /// Row offsets of `rows` rows of 0 .. max_pairs pairs; often all rows are equally long.
  Offsets row_offsets(std::int64_t rows, std::int64_t max_pairs) {
    const bool is_equal = integer(0, 1) == 0;
    const std::int64_t k = integer(0, max_pairs);
    Offsets out{0};
    for (std::int64_t r = 0; r < rows; ++r) {
      out.push_back(out.back() + (is_equal ? k : integer(0, max_pairs)));
    }
    return out;
  }
  /// Sizes that like edges: 0 (if allowed), 1, powers of two and their neighbours, primes.
  std::int64_t size(std::int64_t low, std::int64_t high) {
    static constexpr std::int64_t kEdges[] = {0,  1,  2,  3,  7,  8,  9,   15,  16,  17,  31,
                                              32, 33, 61, 64, 65, 97, 127, 128, 129, 257, 509};
    while (true) {
      const std::int64_t value =
          integer(0, 1) == 0 ? kEdges[integer(0, std::size(kEdges) - 1)] : integer(low, high);
      if (value >= low && value <= high) return value;
    }
  }

 private:
  std::mt19937 engine_;
};

}  // namespace thresher::kernels
