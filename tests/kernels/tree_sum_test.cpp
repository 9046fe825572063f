#include "kernels/tree_sum.h"

#include "core/error.h"
#include "tests/kernels/kernel_test.h"

namespace thresher::kernels {
namespace {

/// The definition: the left branch holds the largest power of two of elements that fits.
double tree(std::span<const double> values) {
  if (values.empty()) return 0.0;
  if (values.size() == 1) return values[0];
  const std::size_t left = std::bit_floor(values.size() - 1);
  return tree(values.first(left)) + tree(values.subspan(left));
}

TEST(TreeSumTest, FollowsTheTreeForEveryLength) {
  Draws draws(51);
  std::vector<double> values;
  for (std::size_t count = 0; count <= 700; ++count) {
    EXPECT_EQ(tree_sum(values), tree(values)) << count;
    values.push_back(static_cast<double>(draws.real()) / 3.0);
  }
  for (int i = 0; i < 9000; ++i) values.push_back(static_cast<double>(draws.real()) / 3.0);
  EXPECT_EQ(tree_sum(values), tree(values));
}

TEST(TreeSumTest, AddsFloatsInDouble) {
  EXPECT_EQ(tree_sum(std::vector<float>{16777216.0f, 1.0f, 1.0f}), 16777218.0);
  EXPECT_EQ(tree_sum(std::span<const float>()), 0.0);
}

TEST(TreeSumTest, GroupsOfAPowerOfTwoMaySumApart) {
  Draws draws(52);
  std::vector<double> values, groups;
  for (int i = 0; i < 64 * 11; ++i) values.push_back(static_cast<double>(draws.real()) / 3.0);
  for (std::size_t i = 0; i < values.size(); i += 64) {
    groups.push_back(tree_sum(std::span<const double>(values).subspan(i, 64)));
  }
  EXPECT_EQ(tree_sum(groups), tree_sum(values));
}

TEST(LaneTreeTest, AddsLanesAlongTheTree) {
  const std::vector<float> lanes{1.0f, 1e8f, -1e8f, 3.0f};
  LaneTree sum(1);
  for (const float& lane : lanes) sum.add({&lane, 1});
  EXPECT_EQ(sum.result()[0], (1.0f + 1e8f) + (-1e8f + 3.0f));
}

TEST(LaneTreeTest, HalvesAddUpToTheSameBits) {
  Draws draws(53);
  const std::int64_t count = 100;
  LaneTree all(count), left(count), right(count);
  for (int lane = 0; lane < 8; ++lane) {
    const auto values = draws.reals(count);
    all.add(values);
    (lane < 4 ? left : right).add(values);
  }
  for (std::size_t i = 0; i < 100; ++i)
    EXPECT_EQ(all.result()[i], left.result()[i] + right.result()[i]);
}

TEST(LaneTreeTest, CanBeUsedAgainAfterClear) {
  LaneTree sum(2);
  for (int round = 0; round < 2; ++round) {
    sum.clear();
    for (int lane = 0; lane < 2; ++lane) sum.add(std::vector<float>{1, 2});
    EXPECT_EQ(bits(sum.result()), bits(std::vector<float>{2, 4}));
  }
}

TEST(LaneTreeTest, RefusesAHalfFinishedTree) {
  LaneTree sum(1);
  const std::vector<float> lane{1};
  EXPECT_THROW(sum.result(), InternalError);
  for (int i = 0; i < 3; ++i) sum.add(lane);
  EXPECT_THROW(sum.result(), InternalError);
  EXPECT_THROW(sum.add(std::vector<float>{1, 2}), InternalError);
}

}  // namespace
}  // namespace thresher::kernels
