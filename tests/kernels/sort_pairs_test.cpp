#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/kernels/backend.h"

namespace thresher::kernels {
namespace {

using Indices = std::vector<std::int32_t>;

TEST(SortPairsTest, OrdersByLatentAndThenByRow) {
  const Lane lane{3, {2, 0, 2, 1, 0, 2}, {1, 1, 1, 0, 1, 1}, {}, {}};
  const SortedLane sorted(lane, 2, 4);
  EXPECT_EQ(sorted.offsets, (std::vector<std::int64_t>{0, 2, 2, 5, 5}));
  EXPECT_EQ((Indices{sorted.pair_rows.begin(), sorted.pair_rows.begin() + 5}),
            (Indices{0, 2, 0, 1, 2}));
  EXPECT_EQ((Indices{sorted.pair_slots.begin(), sorted.pair_slots.begin() + 5}),
            (Indices{1, 4, 0, 2, 5}));
}

TEST(SortPairsTest, AcceptsNothing) {
  EXPECT_EQ(SortedLane(Lane{}, 3, 2).offsets, (std::vector<std::int64_t>{0, 0, 0}));
  EXPECT_EQ(SortedLane(Lane{}, 0, 0).offsets, std::vector<std::int64_t>{0});
}

TEST(SortPairsTest, RefusesALatentOutOfRange) {
  try {
    const SortedLane sorted(Lane{2, {0, 1, 2, 9}, {1, 1, 1, 1}, {}, {}}, 2, 9);
    FAIL() << "expected InternalError";
  } catch (const InternalError& error) {
    EXPECT_STREQ(error.what(), "sort_pairs_by_latent: latent 9 of row 1, expected 0 <= latent < 9");
  }
}

TEST(SortPairsTest, IgnoresTheIndexOfASilentPair) {
  EXPECT_EQ(SortedLane(Lane{1, {-1}, {0}, {}, {}}, 1, 2).offsets,
            (std::vector<std::int64_t>{0, 0, 0}));
}

}  // namespace
}  // namespace thresher::kernels
