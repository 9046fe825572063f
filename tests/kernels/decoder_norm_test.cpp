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

TEST_P(DecoderNormTest, RemovesTheParallelComponentOfAnyRowLength) {
  EXPECT_EQ(backend().remove_parallel_component(2, 2, {0, 2, 0, 0}, {3, 5, 7, 8}),
            (std::vector<float>{3, 0, 7, 8}));
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
    auto expected = draws.integers(rows * cols);
    const auto grad = expected;
    reference::remove_parallel_component(rows, cols, axis.data(), expected.data());
    ASSERT_EQ(backend().remove_parallel_component(rows, cols, axis, grad), expected);
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
    const auto our_perpendicular = backend().remove_parallel_component(rows, cols, W, grad);
    for (std::size_t i = 0; i < unit.size(); ++i) {
      ASSERT_NEAR(our_unit[i], unit[i], 1e-7);
      ASSERT_NEAR(our_perpendicular[i], perpendicular[i], 1e-6);
    }
    Backend& cpu = *cpu_backend();
    EXPECT_EQ(bits(our_unit), bits(cpu.normalise_rows(rows, cols, W)));
    EXPECT_EQ(bits(our_perpendicular), bits(cpu.remove_parallel_component(rows, cols, W, grad)));
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
