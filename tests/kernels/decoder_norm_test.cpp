#include "kernels/decoder_norm.h"

#include <cmath>

#include "kernels/reference.h"
#include "tests/kernels/backends.h"
#include "tests/kernels/kernel_test.h"

namespace thresher::kernels {
namespace {

class DecoderNormTest : public KernelTest {};

TEST_P(DecoderNormTest, ComputesRowNorms) {
  EXPECT_EQ(backend().row_norms(3, 2, {3, 4, 0, 0, -5, 12}), (std::vector<float>{5, 0, 13}));
}

TEST_P(DecoderNormTest, NormalisesRowsAndLeavesZeroRows) {
  EXPECT_EQ(backend().normalise_rows(2, 2, {0, -4, 0, 0}), (std::vector<float>{0, -1, 0, 0}));
}

TEST_P(DecoderNormTest, NormalisesRowsWhoseSquaresOverflowFloat) {
  const auto row = backend().normalise_rows(1, 2, {3e30f, 4e30f});
  EXPECT_FLOAT_EQ(row[0], 0.6f);
  EXPECT_FLOAT_EQ(row[1], 0.8f);
}

TEST_P(DecoderNormTest, LetsANaNBeSeen) {
  const auto norms = backend().row_norms(2, 2, {1, NAN, 3, 4});
  EXPECT_TRUE(std::isnan(norms[0]));
  EXPECT_EQ(norms[1], 5);
}

TEST_P(DecoderNormTest, FindsTheComponentAlongRowsOfAnyLength) {
  const Components out =
      backend().parallel_components(3, 2, {0, 2, 0, 0, 3, 4}, {3, 5, 7, 8, 6, 8});
  EXPECT_EQ(out.factors, (std::vector<double>{2.5, 0, 2}));
  EXPECT_EQ(out.squares, 9.0 + 49 + 64) << "what is perpendicular; all of it beside a zero row";
}

TEST_P(DecoderNormTest, ANaNReachesTheSquares) {
  EXPECT_TRUE(std::isnan(backend().parallel_components(1, 2, {1, 0}, {NAN, 1}).squares));
  EXPECT_TRUE(std::isnan(backend().parallel_components(1, 2, {1, 0}, {1, NAN}).squares));
}

TEST_P(DecoderNormTest, EqualsTheReferenceBitForBitOnIntegers) {
  Draws draws(31);
  for (int round = 0; round < 250; ++round) {
    const std::int64_t rows = draws.size(0, 40), cols = draws.size(0, 130);
    const auto W = draws.integers(rows * cols);
    std::vector<float> norms(static_cast<std::size_t>(rows));
    reference::row_norms(rows, cols, W.data(), norms.data());
    ASSERT_EQ(backend().row_norms(rows, cols, W), norms);
    ASSERT_EQ(backend().sum_of_squares(rows, cols, W),
              reference::sum_of_squares(rows * cols, W.data()));
    // The component is a whole number where the row is 1 times a unit vector.
    std::vector<float> axis(W.size(), 0.0f);
    for (std::int64_t r = 0; r < rows && cols > 0; ++r)
      axis[static_cast<std::size_t>(r * cols + r % cols)] = 1;
    const auto grad = draws.integers(rows * cols);
    auto left = grad;
    reference::remove_parallel_component(rows, cols, axis.data(), left.data());
    const Components out = backend().parallel_components(rows, cols, axis, grad);
    ASSERT_EQ(out.squares, reference::sum_of_squares(rows * cols, left.data()));
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const double factor = out.factors[static_cast<std::size_t>(i / cols)];
      ASSERT_EQ(grad[at] - factor * axis[at], left[at]);
    }
  }
}

TEST_P(DecoderNormTest, IsCloseToTheReferenceAndGivesTheBitsOfTheCpu) {
  Draws draws(32);
  for (const std::int64_t cols : {1, 7, 8, 9, 576}) {
    const std::int64_t rows = 30;
    const auto W = draws.reals(rows * cols), grad = draws.reals(rows * cols);
    auto unit = W, perpendicular = grad;
    reference::normalise_rows(rows, cols, unit.data());
    reference::remove_parallel_component(rows, cols, W.data(), perpendicular.data());
    const auto our_unit = backend().normalise_rows(rows, cols, W);
    const Components ours = backend().parallel_components(rows, cols, W, grad);
    for (std::size_t i = 0; i < unit.size(); ++i) {
      ASSERT_NEAR(our_unit[i], unit[i], 1e-7);
      const double factor = ours.factors[i / static_cast<std::size_t>(cols)];
      ASSERT_NEAR(grad[i] - factor * W[i], perpendicular[i], 1e-6);
    }
    EXPECT_NEAR(ours.squares, reference::sum_of_squares(rows * cols, perpendicular.data()),
                1e-6 * static_cast<double>(rows * cols));
    Backend& cpu = *cpu_backend();
    EXPECT_EQ(bits(our_unit), bits(cpu.normalise_rows(rows, cols, W)));
    EXPECT_EQ(ours.factors, cpu.parallel_components(rows, cols, W, grad).factors);
    EXPECT_EQ(ours.squares, cpu.parallel_components(rows, cols, W, grad).squares);
    EXPECT_EQ(bits(backend().row_norms(rows, cols, W)), bits(cpu.row_norms(rows, cols, W)));
    EXPECT_EQ(backend().sum_of_squares(rows, cols, W), cpu.sum_of_squares(rows, cols, W));
  }
}

TEST_P(DecoderNormTest, HalvesOfTheRowsAddUpToTheSameSquares) {
  Draws draws(33);
  const std::int64_t rows = 64, cols = 37;
  const auto W = draws.reals(rows * cols);
  const auto half = W.begin() + rows / 2 * cols;
  EXPECT_EQ(backend().sum_of_squares(rows, cols, W),
            backend().sum_of_squares(rows / 2, cols, {W.begin(), half}) +
                backend().sum_of_squares(rows / 2, cols, {half, W.end()}));
}

INSTANTIATE_TEST_SUITE_P(On, DecoderNormTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace thresher::kernels
