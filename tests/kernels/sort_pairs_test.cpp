#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/kernels/backend.h"

namespace thresher::kernels {
namespace {

using Indices = std::vector<std::int32_t>;

TEST(SortPairsTest, OrdersByLatentAndThenByRow) {
  const Lane lane{{0, 2, 4, 6}, {2, 0, 2, 1, 0, 2}, {1, 1, 1, 0, 1, 1}, {}, {}, {}};
  const SortedLane sorted(lane, 4);
  EXPECT_EQ(sorted.offsets, (std::vector<std::int64_t>{0, 2, 2, 5, 5}));
  EXPECT_EQ((Indices{sorted.pair_rows.begin(), sorted.pair_rows.begin() + 5}),
            (Indices{0, 2, 0, 1, 2}));
  EXPECT_EQ((Indices{sorted.pair_slots.begin(), sorted.pair_slots.begin() + 5}),
            (Indices{1, 4, 0, 2, 5}));
}

TEST(SortPairsTest, TakesRowsOfAnyLengthAndAPartOfTheRows) {
  const Offsets row_offsets{0, 3, 3, 4, 6};  // the second row is empty
  const Indices indices{1, 0, 2, 0, 2, 0};
  const std::vector<float> values{1, 1, 1, 1, 1, 1};
  const SortedLane all(Lane{row_offsets, indices, values, {}, {}, {}}, 3);
  EXPECT_EQ(all.offsets, (Offsets{0, 3, 4, 6}));
  EXPECT_EQ(all.pair_rows, (Indices{0, 2, 3, 0, 0, 3}));
  EXPECT_EQ(all.pair_slots, (Indices{1, 3, 5, 0, 2, 4}));
  Offsets offsets(4);
  Indices rows(3), slots(3);
  sort_pairs_by_latent(2, 3, row_offsets.data() + 2, indices.data(), values.data(), offsets.data(),
                       rows.data(), slots.data());
  EXPECT_EQ(offsets, (Offsets{0, 2, 2, 3}));
  EXPECT_EQ(rows, (Indices{0, 1, 1})) << "counted from the first row of the part";
  EXPECT_EQ(slots, (Indices{3, 5, 4})) << "places in the arrays";
}

TEST(SortPairsTest, AcceptsNothing) {
  EXPECT_EQ(SortedLane(Lane{}, 2).offsets, (std::vector<std::int64_t>{0, 0, 0}));
  EXPECT_EQ(SortedLane(Lane{}, 0).offsets, std::vector<std::int64_t>{0});
}

TEST(SortPairsTest, RefusesALatentOutOfRange) {
  try {
    const SortedLane sorted(Lane{{0, 2, 4}, {0, 1, 2, 9}, {1, 1, 1, 1}, {}, {}, {}}, 9);
    FAIL() << "expected InternalError";
  } catch (const InternalError& error) {
    EXPECT_STREQ(error.what(), "sort_pairs_by_latent: latent 9 of row 1, expected 0 <= latent < 9");
  }
}

TEST(SortPairsTest, IgnoresTheIndexOfASilentPair) {
  EXPECT_EQ(SortedLane(Lane{{0, 1}, {-1}, {0}, {}, {}, {}}, 2).offsets,
            (std::vector<std::int64_t>{0, 0, 0}));
}

}  // namespace
}  // namespace thresher::kernels
