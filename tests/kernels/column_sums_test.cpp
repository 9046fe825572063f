#include "kernels/column_sums.h"

#include <cmath>

#include "kernels/reference.h"
#include "tests/kernels/backends.h"
#include "tests/kernels/kernel_test.h"

namespace thresher::kernels {
namespace {

class ColumnSumsTest : public KernelTest {};

TEST_P(ColumnSumsTest, AddsRowsAndScaledRows) {
  EXPECT_EQ(backend().column_sums(2, 3, nullptr, {1, 2, 3, 10, 20, 30}),
            (std::vector<double>{11, 22, 33}));
  const std::vector<float> coefficients{2, -1};
  EXPECT_EQ(backend().column_sums(2, 3, &coefficients, {1, 2, 3, 10, 20, 30}),
            (std::vector<double>{-8, -16, -24}));
  EXPECT_EQ(backend().column_sums(0, 2, nullptr, {}), (std::vector<double>{0, 0}));
}

TEST_P(ColumnSumsTest, LeavesOutRowsWithoutACoefficientAndShowsNaN) {
  const std::vector<float> coefficients{0, 1};
  EXPECT_EQ(backend().column_sums(2, 1, &coefficients, {INFINITY, 4}), std::vector<double>{4});
  EXPECT_TRUE(std::isnan(backend().column_sums(2, 1, nullptr, {NAN, 4})[0]));
}

TEST_P(ColumnSumsTest, EqualsTheReferenceBitForBitOnIntegers) {
  Draws draws(51);
  for (int round = 0; round < 250; ++round) {
    const std::int64_t rows = draws.size(0, 600), cols = draws.size(1, 130);
    const auto values = draws.integers(rows * cols), coefficients = draws.integers(rows);
    const auto* some = draws.integer(0, 1) == 0 ? &coefficients : nullptr;
    std::vector<double> expected(static_cast<std::size_t>(cols));
    reference::column_sums(rows, cols, some != nullptr ? some->data() : nullptr, values.data(),
                           expected.data());
    ASSERT_EQ(backend().column_sums(rows, cols, some, values), expected);
  }
}

TEST_P(ColumnSumsTest, IsCloseToTheReferenceAndGivesTheBitsOfTheCpu) {
  Draws draws(52);
  for (const std::int64_t rows : {1, 63, 64, 65, 449, 1000}) {
    const std::int64_t cols = 37;
    const auto values = draws.reals(rows * cols), coefficients = draws.reals(rows);
    std::vector<double> expected(static_cast<std::size_t>(cols));
    reference::column_sums(rows, cols, coefficients.data(), values.data(), expected.data());
    const auto sums = backend().column_sums(rows, cols, &coefficients, values);
    for (std::size_t c = 0; c < sums.size(); ++c) ASSERT_NEAR(sums[c], expected[c], 1e-11);
    EXPECT_EQ(sums, cpu_backend()->column_sums(rows, cols, &coefficients, values));
  }
}

INSTANTIATE_TEST_SUITE_P(On, ColumnSumsTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace thresher::kernels
