#include "kernels/encode_select.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "kernels/parallel.h"
#include "kernels/reference.h"
#include "tests/kernels/kernel_test.h"

namespace thresher::kernels {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
using Floats = std::vector<float>;
using Indices = std::vector<std::int32_t>;
using Mask = std::vector<std::uint8_t>;

/// An encoder, and its pre-activations computed in full as the header says.
struct Encoder {
  std::int64_t rows, d, n_latents;
  Floats x, W_enc, b_enc;

  EncoderProduct product() const {
    return {rows, d, n_latents, x.data(), W_enc.data(), b_enc.data()};
  }
  Floats pre_acts(CpuIsa isa) const {
    Floats z;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = 0; j < n_latents; ++j) {
        float sum = 0;
        for (std::int64_t p = 0; p < d; ++p) {
          const float a = x[static_cast<std::size_t>(r * d + p)];
          const float b = W_enc[static_cast<std::size_t>(j * d + p)];
          sum = isa == CpuIsa::kPortable ? sum + a * b : std::fma(a, b, sum);
        }
        z.push_back(sum + b_enc[static_cast<std::size_t>(j)]);
      }
    }
    return z;
  }
};

Encoder encoder(Draws& draws, std::int64_t rows, std::int64_t d, std::int64_t n, bool integers) {
  const auto draw = [&](std::int64_t count) {
    return integers ? draws.integers(count) : draws.reals(count);
  };
  return {rows, d, n, draw(rows * d), draw(n * d), draw(n)};
}

/// z as given: one input of 1, the biases are the pre-activations.
Encoder row_of(Floats z) {
  const auto n = static_cast<std::int64_t>(z.size());
  return {1, 1, n, {0}, Floats(z.size(), 1.0f), std::move(z)};
}

struct Chosen {
  Floats values, masked_values;
  Indices indices, masked_indices;
  std::int64_t not_numbers = 0;
};

class EncodeSelectTest : public testing::TestWithParam<CpuIsa> {
 protected:
  void SetUp() override {
    if (!supports(GetParam())) GTEST_SKIP() << "not on this processor";
  }
  void TearDown() override { set_num_threads(1); }

  Chosen topk(const Encoder& encoder, std::int64_t k, const Mask* mask = nullptr,
              std::int64_t masked_k = 0) {
    Chosen out;
    out.values.assign(static_cast<std::size_t>(encoder.rows * k), -7);
    out.indices.assign(out.values.size(), -7);
    out.masked_values.assign(static_cast<std::size_t>(encoder.rows * masked_k), -7);
    out.masked_indices.assign(out.masked_values.size(), -7);
    const TopKSlots masked{masked_k, out.masked_values.data(), out.masked_indices.data()};
    out.not_numbers =
        select_.topk(encoder.product(), {k, out.values.data(), out.indices.data()},
                     mask == nullptr ? nullptr : mask->data(), mask == nullptr ? nullptr : &masked);
    return out;
  }

  EncodeSelect select_{GetParam()};
};

TEST_P(EncodeSelectTest, KeepsTheLargestFirstAndTheLowerIndexOfEqualOnes) {
  const Chosen out = topk(row_of({1, 9, -4, 9, 7}), 3);
  EXPECT_EQ(out.values, (Floats{9, 9, 7}));
  EXPECT_EQ(out.indices, (Indices{1, 3, 4}));
  EXPECT_EQ(topk(row_of(Floats(3000, 2.5f)), 4).indices, (Indices{0, 1, 2, 3}));
  EXPECT_EQ(topk(row_of(Floats(3000, -1.0f)), 2).values, (Floats{-1, -1}));
}

TEST_P(EncodeSelectTest, FindsAscendingAndDescendingRows) {
  Floats up(2000), down(2000);
  for (std::size_t i = 0; i < up.size(); ++i) {
    up[i] = static_cast<float>(i);
    down[i] = -static_cast<float>(i);
  }
  EXPECT_EQ(topk(row_of(up), 3).indices, (Indices{1999, 1998, 1997}));
  EXPECT_EQ(topk(row_of(down), 3).indices, (Indices{0, 1, 2}));
}

TEST_P(EncodeSelectTest, CountsNaNAndNeverSelectsIt) {
  Floats z(500, 1.0f);
  z[3] = z[77] = kNaN;
  z[400] = kInfinity;
  const Chosen out = topk(row_of(z), 3);
  EXPECT_EQ(out.indices, (Indices{400, 0, 1}));
  EXPECT_EQ(out.not_numbers, 2);
  const Chosen nothing = topk(row_of({kNaN, -kInfinity, kNaN}), 3);
  EXPECT_EQ(nothing.values, (Floats{-kInfinity, 0, 0}));
  EXPECT_EQ(nothing.indices, (Indices{1, 0, 0}));
}

TEST_P(EncodeSelectTest, KeepsDenormals) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(topk(row_of({0, tiny, -tiny, 2 * tiny}), 3).values, (Floats{2 * tiny, tiny, 0}));
}

TEST_P(EncodeSelectTest, SelectsAmongMaskedLatentsToo) {
  const Mask mask{0, 1, 0, 255, 1};
  const Chosen out = topk(row_of({9, 8, 7, 6, 8}), 2, &mask, 3);
  EXPECT_EQ(out.indices, (Indices{0, 1}));
  EXPECT_EQ(out.masked_indices, (Indices{1, 4, 3}));
  EXPECT_EQ(out.masked_values, (Floats{8, 8, 6}));
}

TEST_P(EncodeSelectTest, AgreesWithTheWholeMatrixOnManyShapes) {
  Draws draws(2024);
  for (int trial = 0; trial < 220; ++trial) {
    const std::int64_t rows = draws.size(0, 70), d = draws.size(1, 130), n = draws.size(1, 520);
    const std::int64_t k = std::min(n, draws.size(1, 140));
    const Encoder encoder = thresher::kernels::encoder(draws, rows, d, n, trial % 3 != 0);
    Mask mask(static_cast<std::size_t>(n));
    const std::int64_t odds = draws.integer(1, 9);
    for (auto& open : mask) open = draws.integer(0, odds) == 0 ? 1 : 0;
    const std::int64_t n_open = std::count(mask.begin(), mask.end(), 1);
    const bool masked = n_open > 0 && trial % 2 == 0;
    const std::int64_t masked_k = masked ? draws.integer(1, n_open) : 0;
    set_num_threads(1 + trial % 4);
    const Chosen out = topk(encoder, k, masked ? &mask : nullptr, masked_k);

    const Floats z = encoder.pre_acts(GetParam());
    Floats values(out.values.size());
    Indices indices(out.indices.size());
    reference::topk(rows, n, k, z.data(), nullptr, values.data(), indices.data());
    ASSERT_EQ(out.indices, indices) << rows << " x " << d << " x " << n << ", k " << k;
    ASSERT_EQ(bits(out.values), bits(values)) << rows << " x " << d << " x " << n << ", k " << k;
    ASSERT_EQ(out.not_numbers, 0);
    if (!masked) continue;
    values.resize(out.masked_values.size());
    indices.resize(values.size());
    reference::topk(rows, n, masked_k, z.data(), mask.data(), values.data(), indices.data());
    ASSERT_EQ(out.masked_indices, indices);
    ASSERT_EQ(bits(out.masked_values), bits(values));
  }
}

TEST_P(EncodeSelectTest, TakesEverythingFromABoundOn) {
  Draws draws(77);
  for (int trial = 0; trial < 200; ++trial) {
    const std::int64_t rows = draws.size(0, 40), d = draws.size(1, 70), n = draws.size(1, 300);
    const Encoder encoder = thresher::kernels::encoder(draws, rows, d, n, trial % 2 == 0);
    Floats bounds = draws.integers(n);
    if (trial % 5 == 0) bounds.assign(bounds.size(), -kInfinity);
    if (trial % 5 == 1) bounds.assign(bounds.size(), kInfinity);
    set_num_threads(1 + trial % 3);
    SelectedPairs pairs;
    EXPECT_EQ(select_.above(encoder.product(), bounds.data(), pairs), 0);

    const Floats z = encoder.pre_acts(GetParam());
    SelectedPairs expected{{0}, {}, {}};
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = 0; j < n; ++j) {
        const float value = z[static_cast<std::size_t>(r * n + j)];
        if (!(value >= bounds[static_cast<std::size_t>(j)])) continue;
        expected.values.push_back(value);
        expected.indices.push_back(static_cast<std::int32_t>(j));
      }
      expected.row_offsets.push_back(static_cast<std::int64_t>(expected.values.size()));
    }
    ASSERT_EQ(pairs.row_offsets, expected.row_offsets) << rows << " x " << d << " x " << n;
    ASSERT_EQ(pairs.indices, expected.indices);
    ASSERT_EQ(bits(pairs.values), bits(expected.values));
  }
}

TEST_P(EncodeSelectTest, LeavesNaNOutOfWhatIsAboveABound) {
  SelectedPairs pairs;
  const Encoder encoder = row_of({kNaN, 2, -1, kInfinity});
  EXPECT_EQ(select_.above(encoder.product(), Floats(4, 0.0f).data(), pairs), 1);
  EXPECT_EQ(pairs.indices, (Indices{1, 3}));
}

TEST_P(EncodeSelectTest, TakesOneBoundForAllAndSelectsAmongMaskedLatents) {
  Draws draws(99);
  for (int trial = 0; trial < 60; ++trial) {
    const std::int64_t rows = draws.size(1, 30), d = draws.size(1, 40), n = draws.size(2, 200);
    const Encoder encoder = thresher::kernels::encoder(draws, rows, d, n, trial % 2 == 0);
    Mask mask(static_cast<std::size_t>(n));
    for (auto& open : mask) open = draws.integer(0, 3) == 0 ? 1 : 0;
    mask[0] = 1;
    const std::int64_t k = draws.integer(1, std::count(mask.begin(), mask.end(), 1));
    const auto bound = static_cast<float>(draws.integer(-3, 9));
    set_num_threads(1 + trial % 2);
    Floats masked_values(static_cast<std::size_t>(rows * k));
    Indices masked_indices(masked_values.size());
    const TopKSlots slots{k, masked_values.data(), masked_indices.data()};
    SelectedPairs pairs, expected;
    select_.above(encoder.product(), bound, pairs, mask.data(), &slots);
    select_.above(encoder.product(), Floats(static_cast<std::size_t>(n), bound).data(), expected);
    ASSERT_EQ(pairs.row_offsets, expected.row_offsets);
    ASSERT_EQ(pairs.indices, expected.indices);
    ASSERT_EQ(bits(pairs.values), bits(expected.values));
    const Chosen among = topk(encoder, 1, &mask, k);
    ASSERT_EQ(masked_indices, among.masked_indices);
    ASSERT_EQ(bits(masked_values), bits(among.masked_values));
  }
}

TEST_P(EncodeSelectTest, RefusesAKThatCannotBe) {
  const Encoder encoder = row_of({1, 2, 3});
  const auto message = [&](std::int64_t k, const Mask* mask, std::int64_t masked_k) -> std::string {
    try {
      topk(encoder, k, mask, masked_k);
    } catch (const InternalError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message(4, nullptr, 0), "encode_select: k = 4, expected 1 <= k <= n_latents = 3");
  const Mask mask{0, 1, 0};
  EXPECT_EQ(message(1, &mask, 2), "topk_masked: k = 2, but the mask leaves 1 of 3 columns");
}

INSTANTIATE_TEST_SUITE_P(Isa, EncodeSelectTest,
                         testing::Values(CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512),
                         [](const auto& isa) { return std::string(to_string(isa.param)); });

TEST(EncodeSelect, HasTheSameBitsWithBothFusedInstructionSets) {
  if (!supports(CpuIsa::kAvx512)) GTEST_SKIP() << "this processor has no AVX-512";
  Draws draws(5);
  const Encoder encoder = thresher::kernels::encoder(draws, 33, 129, 257, false);
  std::vector<Floats> values;
  for (const CpuIsa isa : {CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    EncodeSelect select(isa);
    Indices indices(33 * 20);
    values.emplace_back(33 * 20);
    select.topk(encoder.product(), {20, values.back().data(), indices.data()});
  }
  EXPECT_EQ(bits(values[0]), bits(values[1]));
}

}  // namespace
}  // namespace thresher::kernels
