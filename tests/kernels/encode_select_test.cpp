#include "kernels/encode_select.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
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
  Floats pre_acts() const {
    Floats z;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = 0; j < n_latents; ++j) {
        float sums[16] = {};
        for (std::int64_t p = 0; p < d; ++p) {
          sums[p % 16] +=
              x[static_cast<std::size_t>(r * d + p)] * W_enc[static_cast<std::size_t>(j * d + p)];
        }
        for (int half = 8; half >= 1; half /= 2) {
          for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
        }
        z.push_back(sums[0] + b_enc[static_cast<std::size_t>(j)]);
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

/// Every instruction set, without and with a look at bytes first.
struct Way {
  CpuIsa isa;
  Screening screening;
};

class EncodeSelectTest : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    if (!supports(isa())) GTEST_SKIP() << "not on this processor";
  }
  static CpuIsa isa() { return GetParam().isa; }
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

  EncodeSelect select_{isa(), GetParam().screening};
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

    const Floats z = encoder.pre_acts();
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

    const Floats z = encoder.pre_acts();
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

INSTANTIATE_TEST_SUITE_P(
    Isa, EncodeSelectTest,
    testing::Values(Way{CpuIsa::kPortable, Screening::kOff}, Way{CpuIsa::kAvx2, Screening::kOff},
                    Way{CpuIsa::kAvx512, Screening::kOff}, Way{CpuIsa::kPortable, Screening::kOn},
                    Way{CpuIsa::kAvx2, Screening::kOn}, Way{CpuIsa::kAvx512, Screening::kOn}),
    [](const auto& way) {
      return std::string(to_string(way.param.isa)) +
             (way.param.screening == Screening::kOn ? "_screened" : "");
    });

/// Rows whose limits say little: magnitudes over many decades, a few dimensions far above the
/// rest, rows and latents of zeros, denormals, infinities and NaN.
Encoder unruly(Draws& draws, std::int64_t rows, std::int64_t d, std::int64_t n) {
  Encoder out = encoder(draws, rows, d, n, false);
  const auto scale = [&](Floats& values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      const auto exponent = static_cast<int>(draws.integer(-12, 12));
      const std::int64_t kind = draws.integer(0, 19);
      for (std::int64_t p = 0; p < d; ++p) {
        float& value = values[static_cast<std::size_t>(i * d + p)];
        value = kind == 0 ? 0 : kind == 1 ? value * 1e-42f : std::ldexp(value, exponent);
        if (kind > 1 && p % 37 == 3) value *= 300;
      }
      if (kind == 2) values[static_cast<std::size_t>(i * d)] = kInfinity;
      if (kind == 3) values[static_cast<std::size_t>(i * d)] = kNaN;
      if (kind == 4) values[static_cast<std::size_t>(i * d)] = 3e38f;
    }
  };
  scale(out.x, rows);
  scale(out.W_enc, n);
  for (std::int64_t j = 0; j < n; j += 29) out.b_enc[static_cast<std::size_t>(j)] = -kInfinity;
  return out;
}

TEST_P(EncodeSelectTest, IsExactWhereLimitsSayLittle) {
  Draws draws(4711);
  for (int trial = 0; trial < 60; ++trial) {
    const std::int64_t rows = draws.size(1, 40), d = draws.size(1, 130), n = draws.size(9, 700);
    const std::int64_t k = draws.integer(1, 8);
    const Encoder encoder = unruly(draws, rows, d, n);
    set_num_threads(1 + trial % 3);
    Floats z = encoder.pre_acts();
    const auto not_numbers = static_cast<std::int64_t>(
        std::count_if(z.begin(), z.end(), [](float value) { return value != value; }));
    const Chosen out = topk(encoder, k);
    ASSERT_EQ(out.not_numbers, not_numbers) << rows << " x " << d << " x " << n;
    // What is not a number loses to everything.
    std::int64_t row = 0;
    for (; row < rows; ++row) {
      const auto begin = z.begin() + row * n;
      if (std::count_if(begin, begin + n, [](float value) { return value == value; }) < k) continue;
      std::replace_if(
          begin, begin + n, [](float value) { return value != value; }, -kInfinity);
      Floats values(static_cast<std::size_t>(k));
      Indices indices(values.size());
      reference::topk(1, n, k, &*begin, nullptr, values.data(), indices.data());
      // Among infinities below the indices may be of what was not a number.
      if (values.back() == -kInfinity) continue;
      const auto at = static_cast<std::size_t>(row * k), end = at + values.size();
      ASSERT_EQ(Indices(out.indices.begin() + at, out.indices.begin() + end), indices);
      ASSERT_EQ(bits({out.values.data() + at, values.size()}), bits(values));
    }
  }
}

TEST(EncodeSelect, HasTheSameBitsOnEveryProcessor) {
  Draws draws(5);
  const Encoder encoder = thresher::kernels::encoder(draws, 33, 129, 257, false);
  for (const CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (!supports(isa)) continue;
    EncodeSelect select(isa);
    Indices indices(33 * 20);
    Floats values(33 * 20), expected(33 * 20);
    select.topk(encoder.product(), {20, values.data(), indices.data()});
    reference::topk(33, 257, 20, encoder.pre_acts().data(), nullptr, expected.data(),
                    indices.data());
    EXPECT_EQ(bits(values), bits(expected));
  }
}

TEST(EncodeSelect, CountsWhatBytesLeaveOpen) {
  Draws draws(6);
  const Encoder encoder = thresher::kernels::encoder(draws, 64, 64, 1024, false);
  const ScreeningFigures before = screening_figures();
  EncodeSelect select(CpuIsa::kPortable, Screening::kOn);
  Indices indices(64 * 8);
  Floats values(64 * 8);
  select.topk(encoder.product(), {8, values.data(), indices.data()});
  const ScreeningFigures after = screening_figures();
  EXPECT_EQ(after.pairs - before.pairs, 64 * 1024);
  EXPECT_GE(after.survivors - before.survivors, 64 * 8);
  EXPECT_LT(after.survivors - before.survivors, 64 * 1024 / 4);
  // Steps of 1/127 of the largest number, in 64 dimensions, on both sides.
  EXPECT_GT(after.limit, 0.005);
  EXPECT_LT(after.limit, 0.05);
}

TEST(EncodeSelect, KnowsWhenToUseBytes) {
  ASSERT_EQ(setenv("THRESHER_SCREENING", "off", 1), 0);
  EXPECT_EQ(default_screening(), Screening::kOff);
  ASSERT_EQ(setenv("THRESHER_SCREENING", "maybe", 1), 0);
  EXPECT_THROW(default_screening(), ConfigError);
  ASSERT_EQ(unsetenv("THRESHER_SCREENING"), 0);
  EXPECT_EQ(default_screening(), Screening::kAuto);
}

}  // namespace
}  // namespace thresher::kernels
