#include "kernels/mixed_precision.h"

#include <cmath>

#include "kernels/detail/mixed_precision_device.h"
#include "kernels/reference.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/random_lanes.h"
#include "tests/kernels/step_backend.h"

namespace thresher::kernels {
namespace {

class MixedPrecisionTest : public testing::TestWithParam<StepBackend*> {
 protected:
  void SetUp() override {
    const std::string reason = backend().reason_to_skip();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  StepBackend& backend() { return *GetParam(); }
};

TEST_P(MixedPrecisionTest, SubtractsAndMultipliesInOneWalk) {
  const std::vector<float> W_dec{1, 0, 0, 1, 5, 7};
  const std::vector<float> bias{10, 20};
  std::vector<std::uint16_t> rounded;
  const Residuals out = backend().residuals(2, {0, 3, 3, 4}, {0, 1, 2, 2}, {1, 2, 0, 4}, W_dec,
                                            &bias, {20, 30, 1, 2, 3, 259}, rounded);
  EXPECT_EQ(out.residuals, (std::vector<float>{9, 8, -9, -18, -27, 211}));
  EXPECT_EQ(out.dots, (std::vector<float>{9, 8, 0, 1342})) << "0 where the value is 0";
  EXPECT_EQ(rounded, narrowed({9, 8, -9, -18, -27, 211}));
}

TEST_P(MixedPrecisionTest, RoundsTheResidualButNotItsProducts) {
  std::vector<std::uint16_t> rounded;
  const Residuals out = backend().residuals(1, {0, 1}, {0}, {1}, {2}, nullptr, {259}, rounded);
  EXPECT_EQ(out.residuals, std::vector<float>{257});
  EXPECT_EQ(out.dots, std::vector<float>{514});
  EXPECT_EQ(rounded, narrowed({256}));
}

TEST_P(MixedPrecisionTest, ResidualsEqualTheReferenceBitForBitOnRandomIntegers) {
  Draws draws(91);
  for (int round = 0; round < 220; ++round) {
    const std::int64_t rows = draws.size(0, 33), d = draws.size(1, 260);
    const std::int64_t n_latents = draws.size(1, 129);
    const Offsets row_offsets = draws.row_offsets(rows, draws.size(0, 40));
    const std::int64_t n_slots = row_offsets.back();
    const auto indices = draws.latents(n_slots, n_latents);
    const auto values = draws.integers(n_slots), W_dec = draws.integers(n_latents * d);
    const auto x = draws.integers(rows * d), bias = draws.integers(d);
    const auto* some_bias = draws.integer(0, 1) == 0 ? &bias : nullptr;
    std::vector<float> residuals(x.size()), dots(indices.size());
    reference::sparse_residuals(rows, d, row_offsets.data(), indices.data(), values.data(),
                                W_dec.data(), some_bias != nullptr ? bias.data() : nullptr,
                                x.data(), residuals.data(), dots.data());
    std::vector<std::uint16_t> rounded;
    const Residuals out =
        backend().residuals(d, row_offsets, indices, values, W_dec, some_bias, x, rounded);
    ASSERT_EQ(out.residuals, residuals);
    ASSERT_EQ(out.dots, dots);
    ASSERT_EQ(rounded.size(), residuals.size());
  }
}

TEST_P(MixedPrecisionTest, GradientsEqualTheReferenceBitForBitOnRandomIntegers) {
  Draws draws(92);
  for (int round = 0; round < 220; ++round) {
    const std::int64_t n_latents = draws.size(1, 65), d = draws.size(1, 130);
    const auto lanes = random_lanes(draws, 1, 40, draws.integer(1, 6), n_latents, d, true);
    const Gradients expected = expected_gradients(n_latents, d, lanes);
    const Gradients out = backend().gradients(n_latents, d, lanes[0]);
    ASSERT_EQ(out.W_dec, expected.W_dec);
    ASSERT_EQ(out.W_enc, expected.W_enc);
    ASSERT_EQ(out.b_enc, expected.b_enc);
  }
}

TEST_P(MixedPrecisionTest, SplitsALatentThatManyRowsHave) {
  Draws draws(93);
  for (const std::int64_t n_latents : {1, 2, 5}) {
    for (const std::int64_t d : {1, 8, 33}) {
      auto lanes = random_lanes(draws, 1, 2000, 3, n_latents, d, true);
      const Gradients expected = expected_gradients(n_latents + 1, d, lanes);
      const Gradients out = backend().gradients(n_latents + 1, d, lanes[0]);
      ASSERT_EQ(out.W_dec, expected.W_dec) << n_latents << " latents, d " << d;
      ASSERT_EQ(out.W_enc, expected.W_enc);
      ASSERT_EQ(out.b_enc, expected.b_enc);
    }
  }
}

TEST(HeavyLatents, HaveAPlaceEachWhoseRangeIsTheirs) {
  Draws draws(94);
  for (int trial = 0; trial < 200; ++trial) {
    const std::int64_t n_latents = draws.size(1, 500);
    const std::int64_t most = trial % 2 == 0 ? 2000 : 200'000;
    Offsets offsets{0};
    for (std::int64_t i = 0; i < n_latents; ++i) {
      const std::int64_t kind = draws.integer(0, 5);
      offsets.push_back(offsets.back() + (kind == 0   ? draws.integer(0, most)
                                          : kind == 1 ? 256 + draws.integer(0, 2)
                                                      : draws.integer(0, 9)));
    }
    const std::int64_t least = detail::heavy_pairs(offsets.back());
    std::int64_t n_heavy = 0, found = 0;
    for (std::int64_t i = 0; i < n_latents; ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (offsets[at + 1] - offsets[at] <= least) continue;
      ++n_heavy;
      const std::int64_t place = offsets[at] / least;
      ASSERT_LT(place, detail::kHeavyPlaces);
      const detail::PairRange range = detail::heavy_range(place, n_latents, offsets.data());
      ASSERT_EQ(range.begin, offsets[at]);
      ASSERT_EQ(range.end, offsets[at + 1]);
      std::int64_t next = range.begin;
      for (std::int64_t part = 0; part < detail::kHeavyParts; ++part) {
        ASSERT_EQ(range.part(part).begin, next);
        next = range.part(part).end;
      }
      ASSERT_EQ(next, range.end);
    }
    for (std::int64_t place = 0; place < detail::kHeavyPlaces; ++place) {
      const detail::PairRange range = detail::heavy_range(place, n_latents, offsets.data());
      found += range.begin != range.end ? 1 : 0;
    }
    ASSERT_EQ(found, n_heavy);
  }
}

INSTANTIATE_TEST_SUITE_P(On, MixedPrecisionTest, testing::ValuesIn(step_backends_under_test()),
                         [](const auto& test) { return test.param->name(); });

}  // namespace
}  // namespace thresher::kernels
