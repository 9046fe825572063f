#include "kernels/topk.h"

#include <cmath>
#include <limits>

#include "kernels/reference.h"
#include "tests/kernels/kernel_test.h"

namespace thresher::kernels {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
using Indices = std::vector<std::int32_t>;

class TopKTest : public KernelTest {
 protected:
  TopKOut run(const std::vector<float>& row, std::int64_t k) {
    return backend().topk(1, static_cast<std::int64_t>(row.size()), k, row);
  }
};

TEST_P(TopKTest, KeepsTheLargestFirst) {
  const auto out = run({1, 9, -4, 5, 7}, 3);
  EXPECT_EQ(out.values, (std::vector<float>{9, 7, 5}));
  EXPECT_EQ(out.indices, (Indices{1, 4, 3}));
}

TEST_P(TopKTest, BreaksTiesByLowerLatentIndex) {
  EXPECT_EQ(run({5, 7, 7, 7}, 2).indices, (Indices{1, 2}));
  EXPECT_EQ(run(std::vector<float>(1000, 2.5f), 5).indices, (Indices{0, 1, 2, 3, 4}));
}

TEST_P(TopKTest, KeepsNegativeValuesWhenTheWholeRowIsNegative) {
  EXPECT_EQ(run({-3, -1, -2}, 1).values, std::vector<float>{-1});
}

TEST_P(TopKTest, TreatsMinusZeroAsZeroAndKeepsItsSign) {
  const auto out = run({-1, -0.0f, 0.0f, -0.0f}, 3);
  EXPECT_EQ(out.indices, (Indices{1, 2, 3}));
  EXPECT_EQ(bits(out.values), bits(std::vector<float>{-0.0f, 0.0f, -0.0f}));
}

TEST_P(TopKTest, SortsNaNBeforeInfinity) {
  const auto out = run({1, kInfinity, kNaN, -kInfinity, -kNaN}, 5);
  EXPECT_EQ(out.indices, (Indices{2, 4, 1, 0, 3}));
  EXPECT_TRUE(std::isnan(out.values[0]) && std::isnan(out.values[1]));
}

TEST_P(TopKTest, FindsANaNInALongRow) {
  std::vector<float> row(5000, 1.0f);
  row[4321] = kNaN;
  EXPECT_EQ(run(row, 2).indices, (Indices{4321, 0}));
}

TEST_P(TopKTest, TakesTheWholeRowWhenKEqualsItsLength) {
  EXPECT_EQ(run({2, 3, 1}, 3).indices, (Indices{1, 0, 2}));
}

TEST_P(TopKTest, AcceptsNoRows) { EXPECT_TRUE(backend().topk(0, 5, 2, {}).indices.empty()); }

TEST_P(TopKTest, SelectsOnlyWhereTheMaskIsOpen) {
  const std::vector<float> rows{9, 8, 7, 6, 1, 2, 3, 4};
  const std::vector<std::uint8_t> mask{0, 1, 0, 255};
  const auto out = backend().topk(2, 4, 2, rows, &mask);
  EXPECT_EQ(out.indices, (Indices{1, 3, 3, 1}));
  EXPECT_EQ(out.values, (std::vector<float>{8, 6, 4, 2}));
}

/// A row of one of the kinds that selection algorithms get wrong.
std::vector<float> difficult_row(Draws& draws, std::int64_t cols) {
  std::vector<float> row = draws.reals(cols);
  const std::int64_t kind = draws.integer(0, 7);
  for (std::size_t i = 0; i < row.size(); ++i) {
    const auto place = static_cast<float>(i);
    if (kind == 1) row[i] = static_cast<float>(draws.integer(-2, 2));
    if (kind == 2) row[i] = 0.25f;
    if (kind == 3) row[i] = draws.integer(0, 1) == 0 ? 0.0f : -0.0f;
    if (kind == 4) row[i] = place;
    if (kind == 5) row[i] = -place;
    if (kind == 6 && draws.integer(0, 5) == 0) row[i] = kNaN;
    if (kind == 7 && draws.integer(0, 3) == 0) {
      row[i] = draws.integer(0, 1) == 0 ? kInfinity : -kInfinity;
    }
  }
  return row;
}

TEST_P(TopKTest, EqualsTheReferenceOnRandomShapes) {
  Draws draws(11);
  for (int round = 0; round < 400; ++round) {
    const std::int64_t rows = draws.integer(0, 4), cols = draws.size(1, 700);
    const std::int64_t k =
        draws.integer(0, 3) == 0 ? cols : draws.integer(1, std::min<std::int64_t>(cols, 40));
    std::vector<float> pre_acts;
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto row = difficult_row(draws, cols);
      pre_acts.insert(pre_acts.end(), row.begin(), row.end());
    }
    TopKOut expected{std::vector<float>(static_cast<std::size_t>(rows * k)),
                     Indices(static_cast<std::size_t>(rows * k))};
    reference::topk(rows, cols, k, pre_acts.data(), nullptr, expected.values.data(),
                    expected.indices.data());
    const auto out = backend().topk(rows, cols, k, pre_acts);
    ASSERT_EQ(out.indices, expected.indices) << rows << " x " << cols << ", k " << k;
    ASSERT_EQ(bits(out.values), bits(expected.values)) << rows << " x " << cols << ", k " << k;
  }
}

TEST_P(TopKTest, EqualsTheReferenceUnderRandomMasks) {
  Draws draws(12);
  for (int round = 0; round < 200; ++round) {
    const std::int64_t rows = draws.integer(0, 3), cols = draws.size(1, 700);
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(cols), 0);
    std::int64_t n_open = 0;
    for (auto& is_open : mask) n_open += is_open = static_cast<std::uint8_t>(draws.integer(0, 1));
    if (n_open == 0) n_open = mask[0] = 1;
    const std::int64_t k = draws.integer(1, n_open);
    std::vector<float> pre_acts;
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto row = difficult_row(draws, cols);
      pre_acts.insert(pre_acts.end(), row.begin(), row.end());
    }
    TopKOut expected{std::vector<float>(static_cast<std::size_t>(rows * k)),
                     Indices(static_cast<std::size_t>(rows * k))};
    reference::topk(rows, cols, k, pre_acts.data(), mask.data(), expected.values.data(),
                    expected.indices.data());
    const auto out = backend().topk(rows, cols, k, pre_acts, &mask);
    ASSERT_EQ(out.indices, expected.indices) << rows << " x " << cols << ", k " << k;
    ASSERT_EQ(bits(out.values), bits(expected.values));
  }
}

TEST_P(TopKTest, EqualsTheReferenceOnLongRows) {
  Draws draws(13);
  for (const std::int64_t k : {1, 32, 288, 4096, 5000}) {
    const std::int64_t cols = 9973;
    const auto pre_acts = draws.reals(2 * cols);
    TopKOut expected{std::vector<float>(static_cast<std::size_t>(2 * k)),
                     Indices(static_cast<std::size_t>(2 * k))};
    reference::topk(2, cols, k, pre_acts.data(), nullptr, expected.values.data(),
                    expected.indices.data());
    EXPECT_EQ(backend().topk(2, cols, k, pre_acts).indices, expected.indices) << "k " << k;
  }
}

INSTANTIATE_TEST_SUITE_P(On, TopKTest, testing::ValuesIn(backends_under_test()), backend_name);

}  // namespace
}  // namespace thresher::kernels
