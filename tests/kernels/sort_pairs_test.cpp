#include <gtest/gtest.h>

#include "core/error.h"
#include "kernels/parallel.h"
#include "tests/kernels/kernel_test.h"

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

TEST(SortPairsTest, SeveralThreadsGiveTheSameOrder) {
  Draws draws(71);
  Lane lane;
  const std::int64_t rows = 3000, n_latents = 97;
  lane.row_offsets = draws.row_offsets(rows, 200);
  while (lane.row_offsets.back() < 5 * (1 << 16)) {  // more than one thread takes part
    lane.row_offsets = draws.row_offsets(rows, 200);
  }
  lane.indices = draws.latents(lane.row_offsets.back(), n_latents);
  lane.values = draws.integers(lane.row_offsets.back());  // some are 0
  const SortedLane alone(lane, n_latents);
  for (const int threads : {2, 3, 4}) {
    set_num_threads(threads);
    const SortedLane sorted(lane, n_latents);
    EXPECT_EQ(sorted.offsets, alone.offsets) << threads << " threads";
    EXPECT_EQ(sorted.pair_rows, alone.pair_rows) << threads << " threads";
    EXPECT_EQ(sorted.pair_slots, alone.pair_slots) << threads << " threads";
  }
  set_num_threads(1);
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
