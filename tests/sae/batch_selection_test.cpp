#include "sae/batch_selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <tuple>
#include <vector>

#include "core/random.h"

namespace thresher::sae {
namespace {

using Triple = std::tuple<std::int64_t, std::int32_t, float>;  // row, latent, value

std::vector<Triple> triples(const kernels::SelectedPairs& pairs, std::int64_t first_row) {
  std::vector<Triple> out;
  for (std::size_t r = 0; r + 1 < pairs.row_offsets.size(); ++r) {
    for (auto p = pairs.row_offsets[r]; p < pairs.row_offsets[r + 1]; ++p) {
      out.emplace_back(first_row + static_cast<std::int64_t>(r),
                       pairs.indices[static_cast<std::size_t>(p)],
                       pairs.values[static_cast<std::size_t>(p)]);
    }
  }
  return out;
}

kernels::SelectedPairs pairs_of(const std::vector<std::vector<float>>& rows) {
  kernels::SelectedPairs pairs{{0}, {}, {}};
  for (const std::vector<float>& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (!(row[i] > 0)) continue;
      pairs.values.push_back(row[i]);
      pairs.indices.push_back(static_cast<std::int32_t>(i));
    }
    pairs.row_offsets.push_back(static_cast<std::int64_t>(pairs.values.size()));
  }
  return pairs;
}

TEST(BatchSelectionTest, KeepsTheLargestOfAllRows) {
  kernels::SelectedPairs pairs = pairs_of({{1, 5, 0}, {0, 0, 0}, {4, 2, 3}});
  const BatchCut cut = keep_largest_of_batch(pairs, 3, *comm::make_self_communicator(), "test");
  EXPECT_EQ(cut.kept, 3);
  EXPECT_EQ(cut.smallest, 3);
  EXPECT_EQ(triples(pairs, 0), (std::vector<Triple>{{0, 1, 5}, {2, 0, 4}, {2, 2, 3}}));
}

TEST(BatchSelectionTest, KeepsEarlierRowsAndLowerLatentsOfEqualValues) {
  kernels::SelectedPairs pairs = pairs_of({{2, 7, 2}, {2, 2, 2}});
  keep_largest_of_batch(pairs, 4, *comm::make_self_communicator(), "test");
  EXPECT_EQ(triples(pairs, 0), (std::vector<Triple>{{0, 0, 2}, {0, 1, 7}, {0, 2, 2}, {1, 0, 2}}));
}

TEST(BatchSelectionTest, KeepsAllWhereThereAreNotEnough) {
  kernels::SelectedPairs pairs = pairs_of({{1, 0}, {0, 2}});
  const BatchCut cut = keep_largest_of_batch(pairs, 9, *comm::make_self_communicator(), "test");
  EXPECT_EQ(cut.kept, 2);
  EXPECT_EQ(cut.smallest, 1);
  EXPECT_EQ(triples(pairs, 0).size(), 2U);
  kernels::SelectedPairs none = pairs_of({{}, {}});
  EXPECT_EQ(keep_largest_of_batch(none, 9, *comm::make_self_communicator(), "test").kept, 0);
  EXPECT_EQ(none.row_offsets, (std::vector<std::int64_t>{0, 0, 0}));
}

TEST(BatchSelectionTest, OrdersDenormalsAndInfinity) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  const float infinity = std::numeric_limits<float>::infinity();
  kernels::SelectedPairs pairs = pairs_of({{tiny, infinity, 2 * tiny, 1}});
  const BatchCut cut = keep_largest_of_batch(pairs, 3, *comm::make_self_communicator(), "test");
  EXPECT_EQ(cut.smallest, 2 * tiny);
}

/// All pairs in order of preference, the first `count` of them, by row again.
std::vector<Triple> brute_force(const kernels::SelectedPairs& pairs, std::int64_t count) {
  std::vector<Triple> all = triples(pairs, 0);
  std::stable_sort(all.begin(), all.end(), [](const Triple& a, const Triple& b) {
    return std::get<2>(a) > std::get<2>(b);
  });
  all.resize(std::min(all.size(), static_cast<std::size_t>(count)));
  std::sort(all.begin(), all.end());
  return all;
}

TEST(BatchSelectionTest, IsTheSameOnAnyNumberOfRanks) {
  RandomStream random(3, "test.batch_selection");
  std::uint64_t draw = 0;
  for (int trial = 0; trial < 40; ++trial) {
    std::vector<std::vector<float>> rows(12);
    for (auto& row : rows) {
      for (int i = 0; i < 9; ++i) {
        // Few different values, so that the cut falls among equal ones; every other trial reals.
        const double u = random.uniform(draw++);
        row.push_back(trial % 2 == 0 ? static_cast<float>(static_cast<int>(u * 5))
                                     : static_cast<float>(u - 0.3));
      }
    }
    const auto count = static_cast<std::int64_t>(random.uniform(draw++) * 80);
    const std::vector<Triple> expected = brute_force(pairs_of(rows), count);
    for (const int ranks : {1, 2, 3, 4}) {
      std::vector<Triple> kept;
      std::mutex mutex;
      comm::run_thread_ranks(ranks, 60, [&](comm::Communicator& comm) {
        const std::int64_t share = 12 / ranks, first = share * comm.rank();
        kernels::SelectedPairs mine =
            pairs_of({rows.begin() + first, rows.begin() + first + share});
        keep_largest_of_batch(mine, count, comm, "test");
        const std::lock_guard lock(mutex);
        for (const Triple& triple : triples(mine, first)) kept.push_back(triple);
      });
      std::sort(kept.begin(), kept.end());
      ASSERT_EQ(kept, expected) << "ranks " << ranks << ", count " << count;
    }
  }
}

}  // namespace
}  // namespace thresher::sae
