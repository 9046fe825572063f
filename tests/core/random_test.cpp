#include "core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

namespace thresher {
namespace {

// The known-answer vectors that come with Random123.
TEST(PhiloxTest, GivesThePublishedValues) {
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStreamTest, IsAFunctionOfSeedPurposeAndIndex) {
  const RandomStream a(1, "sae.W_dec");
  EXPECT_EQ(a.bits(5), RandomStream(1, "sae.W_dec").bits(5));
  EXPECT_NE(a.bits(5), a.bits(6));
  EXPECT_NE(a.bits(5), RandomStream(2, "sae.W_dec").bits(5));
  EXPECT_NE(a.bits(5), RandomStream(1, "sae.W_enc").bits(5));
  EXPECT_NE(a.bits(0), a.bits(1ULL << 32U));
}

// Caches and checkpoints depend on these bits: a change must raise kNumericsVersion.
TEST(RandomStreamTest, ItsBitsAreFrozen) {
  const RandomStream stream(42, "frozen");
  EXPECT_EQ(stream.bits(0), 0x123E2714FCB46510ULL);
  EXPECT_EQ(stream.below(3, 1000), 656U);
  const Permutation permutation(1000, 42, "frozen");
  const std::vector<std::uint64_t> first{permutation(0), permutation(1), permutation(2),
                                         permutation(3)};
  EXPECT_EQ(first, (std::vector<std::uint64_t>{967, 560, 148, 216}));
}

TEST(RandomStreamTest, UniformsFillTheUnitIntervalEvenly) {
  const RandomStream stream(3, "uniform");
  constexpr int kDraws = 100'000;
  std::array<int, 20> cells{};
  double sum = 0;
  for (std::uint64_t i = 0; i < kDraws; ++i) {
    const double u = stream.uniform(i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    ++cells[static_cast<std::size_t>(u * 20)];
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.004);  // 4 standard errors
  double chi_square = 0;
  for (const int n : cells) chi_square += (n - 5000.0) * (n - 5000.0) / 5000.0;
  EXPECT_LT(chi_square, 43.8);  // 19 degrees of freedom, p = 0.001
}

TEST(RandomStreamTest, NormalsHaveTheMomentsOfANormal) {
  const RandomStream stream(4, "normal");
  constexpr int kDraws = 200'000;
  std::array<double, 5> moments{};
  for (std::uint64_t i = 0; i < kDraws; ++i) {
    const double x = stream.normal(i);
    ASSERT_TRUE(std::isfinite(x));
    for (std::size_t p = 1; p < moments.size(); ++p) {
      moments[p] += std::pow(x, static_cast<double>(p)) / kDraws;
    }
  }
  EXPECT_NEAR(moments[1], 0.0, 0.01);
  EXPECT_NEAR(moments[2], 1.0, 0.015);
  EXPECT_NEAR(moments[3], 0.0, 0.04);
  EXPECT_NEAR(moments[4], 3.0, 0.1);
}

TEST(RandomStreamTest, BelowStaysBelowAndReachesEveryValue) {
  const RandomStream stream(5, "below");
  std::array<int, 7> counts{};
  for (std::uint64_t i = 0; i < 70'000; ++i) ++counts[stream.below(i, 7)];
  for (const int n : counts) EXPECT_NEAR(n, 10'000, 400);
  EXPECT_EQ(stream.below(9, 1), 0U);
  EXPECT_LT(stream.below(9, ~0ULL), ~0ULL);
}

TEST(PermutationTest, IsABijectionAtEverySize) {
  std::vector<std::uint64_t> sizes(130);
  std::iota(sizes.begin(), sizes.end(), 0);
  for (const std::uint64_t power : {256, 512, 1024, 4096, 65536}) {
    sizes.insert(sizes.end(), {power - 1, power, power + 1});
  }
  sizes.insert(sizes.end(), {251, 997, 10007, 99991});
  for (const std::uint64_t size : sizes) {
    const Permutation permutation(size, 11, "bijection");
    std::vector<bool> is_hit(size, false);
    for (std::uint64_t i = 0; i < size; ++i) {
      const std::uint64_t image = permutation(i);
      ASSERT_LT(image, size);
      ASSERT_FALSE(is_hit[image]) << "size " << size << ", index " << i;
      is_hit[image] = true;
    }
  }
}

TEST(PermutationTest, StaysInRangeAtTheLargestSizes) {
  for (const std::uint64_t size :
       {(1ULL << 32U) + 1, 999'999'999'989ULL, (1ULL << 62U) - 1, 1ULL << 63U}) {
    const Permutation permutation(size, 1, "large");
    std::vector<std::uint64_t> images;
    for (std::uint64_t i = 0; i < 500; ++i) {
      images.push_back(permutation(i));
      images.push_back(permutation(size - 1 - i));
    }
    EXPECT_LT(*std::max_element(images.begin(), images.end()), size);
    std::sort(images.begin(), images.end());
    EXPECT_EQ(std::unique(images.begin(), images.end()), images.end());
  }
}

TEST(PermutationTest, SmallSizesReachEveryOrderEvenly) {
  for (const std::uint64_t size : {2, 3, 4}) {
    std::map<std::vector<std::uint64_t>, int> counts;
    constexpr int kSeeds = 24'000;
    for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
      const Permutation permutation(size, seed, "orders");
      std::vector<std::uint64_t> order;
      for (std::uint64_t i = 0; i < size; ++i) order.push_back(permutation(i));
      ++counts[order];
    }
    const double orders = std::tgamma(static_cast<double>(size) + 1);
    ASSERT_EQ(static_cast<double>(counts.size()), orders);
    const double expected = kSeeds / orders;
    double chi_square = 0;
    for (const auto& [order, n] : counts) chi_square += (n - expected) * (n - expected) / expected;
    EXPECT_LT(chi_square, 49.8) << "size " << size;  // 23 degrees of freedom, p = 0.001
  }
}

TEST(PermutationTest, LooksLikeAShuffleFromAFewSides) {
  constexpr std::uint64_t kSize = 10'000;
  const Permutation permutation(kSize, 2, "shuffle");
  double product = 0;
  int neighbours = 0;
  int fixed_points = 0;
  for (std::uint64_t i = 0; i < kSize; ++i) {
    const auto image = static_cast<double>(permutation(i));
    product += (static_cast<double>(i) - 4999.5) * (image - 4999.5);
    fixed_points += permutation(i) == i ? 1 : 0;
    if (i > 0 && permutation(i) == permutation(i - 1) + 1) ++neighbours;
  }
  const double variance = (static_cast<double>(kSize) * kSize - 1) / 12.0;
  EXPECT_NEAR(product / (kSize * variance), 0.0, 0.04);  // 4 standard errors of a correlation
  EXPECT_LE(neighbours, 6);                              // 1 expected
  EXPECT_LE(fixed_points, 6);
}

}  // namespace
}  // namespace thresher
