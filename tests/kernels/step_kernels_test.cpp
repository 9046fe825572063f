#include <cmath>
#include <limits>

#include "kernels/bfloat16.h"
#include "kernels/reference.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/step_backend.h"

namespace thresher::kernels {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class StepKernelTest : public testing::TestWithParam<StepBackend*> {
 protected:
  void SetUp() override {
    const std::string reason = backend().reason_to_skip();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  StepBackend& backend() { return *GetParam(); }
};

TEST_P(StepKernelTest, SortsPairsByLatentAndThenByRow) {
  const SortedPairs out =
      backend().sort_pairs(4, 9, {0, 3, 3, 5}, {2, 0, 3, 2, 0}, {1, 2, 0, 4, 5});
  EXPECT_EQ(out.offsets, (Offsets{0, 2, 2, 4, 4})) << "a value of 0 is no pair";
  EXPECT_EQ(out.rows, (std::vector<std::int32_t>{0, 2, 0, 2}));
  EXPECT_EQ(out.slots, (std::vector<std::int32_t>{1, 4, 0, 3}));
}

TEST_P(StepKernelTest, SortsPartOfTheRows) {
  const SortedPairs out = backend().sort_pairs(2, 2, {3, 5}, {9, 9, 9, 1, 0}, {1, 1, 1, 1, 1});
  EXPECT_EQ(out.offsets, (Offsets{0, 1, 2}));
  EXPECT_EQ(out.rows, (std::vector<std::int32_t>{0, 0}));
  EXPECT_EQ(out.slots, (std::vector<std::int32_t>{4, 3}));
}

TEST_P(StepKernelTest, SortsRandomPairsAsTheHostDoes) {
  Draws draws(51);
  for (int trial = 0; trial < 200; ++trial) {
    const std::int64_t n_latents = draws.size(1, 600);
    const Offsets offsets = draws.row_offsets(draws.size(0, 40), draws.size(0, 30));
    const auto indices = draws.latents(offsets.back(), n_latents);
    const auto values = draws.integers(offsets.back());
    const std::int64_t n_slots = offsets.back() + draws.integer(0, 9);
    Offsets expected(static_cast<std::size_t>(n_latents + 1));
    std::vector<std::int32_t> rows(indices.size()), slots(indices.size());
    sort_pairs_by_latent(rows_of(offsets), n_latents, offsets.data(), indices.data(), values.data(),
                         expected.data(), rows.data(), slots.data());
    rows.resize(static_cast<std::size_t>(expected.back()));
    slots.resize(rows.size());
    const SortedPairs out = backend().sort_pairs(n_latents, n_slots, offsets, indices, values);
    ASSERT_EQ(out.offsets, expected);
    ASSERT_EQ(out.rows, rows);
    ASSERT_EQ(out.slots, slots);
  }
}

TEST_P(StepKernelTest, ClipsANormAboveItsLimit) {
  const UpdateControl above = backend().decide_update({9, 16}, 2.0);
  EXPECT_EQ(above.gradient_norm, 5.0);
  EXPECT_EQ(above.gradient_scale, 0.4);
  EXPECT_EQ(above.is_finite, 1);
  EXPECT_EQ(backend().decide_update({9, 16}, 5.0).gradient_scale, 1.0);
  EXPECT_EQ(backend().decide_update({9, 16}, 0.0).gradient_scale, 1.0) << "no limit";
  EXPECT_EQ(backend().decide_update({}, 1.0).gradient_norm, 0.0);
}

TEST_P(StepKernelTest, TellsANormThatIsNotFinite) {
  EXPECT_EQ(backend().decide_update({1, kInfinity}, 1.0).is_finite, 0);
  EXPECT_EQ(backend().decide_update({std::nan(""), 1}, 1.0).is_finite, 0);
}

AdamArrays arrays_of(Draws& draws, std::int64_t count) {
  AdamArrays arrays{draws.reals(count), draws.reals(count), {}, {}};
  arrays.v.assign(arrays.m.size(), 0.5f);
  arrays.bfloat16.assign(arrays.m.size(), 7);
  return arrays;
}

TEST_P(StepKernelTest, ChangesNothingWithoutAFiniteNorm) {
  Draws draws(61);
  const AdamArrays before = arrays_of(draws, 40);
  const auto gradient = draws.reals(40);
  const UpdateControl control{kInfinity, 1.0, 0};
  const AdamStep step{1e-2, 0.9, 0.999, 1e-8, 3, 1.0};
  AdamArrays flat = before, rows = before;
  backend().adam(step, control, gradient, flat);
  backend().adam_unit_rows(step, control, 10, gradient, {1, 2, 3, 4}, true, rows);
  for (const AdamArrays& after : {flat, rows}) {
    EXPECT_EQ(after.weights, before.weights);
    EXPECT_EQ(after.m, before.m);
    EXPECT_EQ(after.v, before.v);
    EXPECT_EQ(after.bfloat16, before.bfloat16);
  }
}

TEST_P(StepKernelTest, UpdatesAsAdamDoesWithTheScaleOfItsControl) {
  Draws draws(62);
  for (int trial = 0; trial < 200; ++trial) {
    const std::int64_t rows = draws.size(0, 20), cols = draws.size(1, 140);
    const AdamArrays before = arrays_of(draws, rows * cols);
    const auto gradient = draws.reals(rows * cols);
    const bool renormalises = draws.integer(0, 1) == 0;
    const UpdateControl control{2.0, 0.7, 1};
    AdamStep step{1e-2, 0.9, 0.999, 1e-8, 3, 123.0};
    AdamArrays flat = before, unit = before, expected_flat = before, expected_unit = before;
    const auto factors =
        backend().parallel_components(rows, cols, before.weights, gradient).factors;
    backend().adam(step, control, gradient, flat);
    backend().adam_unit_rows(step, control, cols, gradient, factors, renormalises, unit);
    step.gradient_scale = 0.7;
    kernels::adam({}, step, rows * cols, gradient.data(), expected_flat.weights.data(),
                  expected_flat.m.data(), expected_flat.v.data());
    kernels::adam_unit_rows({}, step, rows, cols, gradient.data(), factors.data(), renormalises,
                            expected_unit.weights.data(), expected_unit.m.data(),
                            expected_unit.v.data());
    for (const auto& [out, expected] :
         {std::pair{&flat, &expected_flat}, {&unit, &expected_unit}}) {
      ASSERT_EQ(bits(out->weights), bits(expected->weights)) << rows << " x " << cols;
      ASSERT_EQ(bits(out->m), bits(expected->m));
      ASSERT_EQ(bits(out->v), bits(expected->v));
      for (std::size_t i = 0; i < out->weights.size(); ++i) {
        const float copy = std::bit_cast<float>(static_cast<std::uint32_t>(out->bfloat16[i]) << 16);
        ASSERT_NEAR(copy, out->weights[i], std::abs(out->weights[i]) / 256);
      }
    }
  }
}

TEST_P(StepKernelTest, AddsIntegersExactlyOnRandomShapes) {
  Draws draws(63);
  for (int trial = 0; trial < 200; ++trial) {
    const std::int64_t rows = draws.size(0, 300), cols = draws.size(1, 200);
    const auto values = draws.integers(rows * cols), factors = draws.integers(rows);
    ASSERT_EQ(backend().sum_of_squares(rows, cols, values),
              reference::sum_of_squares(rows * cols, values.data()));
    std::vector<double> expected(static_cast<std::size_t>(cols));
    for (const auto* coefficients : {static_cast<const std::vector<float>*>(nullptr), &factors}) {
      reference::column_sums(rows, cols, coefficients == nullptr ? nullptr : factors.data(),
                             values.data(), expected.data());
      ASSERT_EQ(backend().column_sums(rows, cols, coefficients, values), expected);
    }
  }
}

TEST_P(StepKernelTest, AddsManyValues) {
  const std::vector<float> ones(300'001, 1.0f);
  EXPECT_EQ(backend().sum_of_squares(1, 300'001, ones), 300'001.0);
  EXPECT_EQ(backend().sum_of_squares(300'001, 1, ones), 300'001.0);
  EXPECT_EQ(backend().column_sums(300'001, 1, nullptr, ones), std::vector<double>{300'001.0});
}

TEST_P(StepKernelTest, SplitsOffTheParallelComponent) {
  const Components out =
      backend().parallel_components(3, 2, {2, 0, 0, 0, 3, 4}, {5, 7, 1, 2, 4, -3});
  EXPECT_EQ(out.factors, (std::vector<double>{2.5, 0, 0}));
  EXPECT_EQ(out.squares, 49.0 + 5.0 + 25.0);
  EXPECT_EQ(backend().parallel_components(0, 2, {}, {}).squares, 0.0);
}

TEST_P(StepKernelTest, CentresRowsAndRoundsToNearestEven) {
  const std::vector<float> centre{1, 0};
  const Centred out = backend().centre_rows(2, 2, {3, 1.00390625f, 0, 1.01171875f}, &centre);
  EXPECT_EQ(out.values, (std::vector<float>{2, 1.00390625f, -1, 1.01171875f}));
  EXPECT_EQ(out.bfloat16, (std::vector<std::uint16_t>{0x4000, 0x3f80, 0xbf80, 0x3f82}))
      << "half of the last place goes to the even neighbour";
  const float infinity = std::numeric_limits<float>::infinity();
  const float most = std::numeric_limits<float>::max();
  const float nan = std::bit_cast<float>(0x7f800001U);  // its payload lies in the lower half
  const Centred odd = backend().centre_rows(1, 4, {infinity, most, nan, -0.0f}, nullptr);
  EXPECT_EQ(odd.bfloat16, (std::vector<std::uint16_t>{0x7f80, 0x7f80, 0x7fc0, 0x8000}));
}

INSTANTIATE_TEST_SUITE_P(On, StepKernelTest, testing::ValuesIn(step_backends_under_test()),
                         [](const auto& test) { return test.param->name(); });

}  // namespace
}  // namespace thresher::kernels
