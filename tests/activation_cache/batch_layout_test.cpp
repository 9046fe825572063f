#include <gtest/gtest.h>

#include <map>
#include <set>

#include "activation_cache/batch_layout.h"
#include "core/error.h"
#include "tests/core/scratch_folder.h"

namespace thresher::activation_cache {
namespace {

using thresher::testing::first_line_of;
using Row = std::pair<std::int64_t, std::int64_t>;  // unit, row

const std::vector<std::int64_t> kUnitRows = {120, 113, 120, 0, 64, 1};  // 418 rows

BatchPlan plan_of(std::int64_t batch, std::int64_t lanes, std::int64_t window) {
  return {.batch_tokens = batch, .lanes = lanes, .shuffle_window_tokens = window, .seed = 11};
}

/// The rows of a lane's window, shuffled.
std::vector<Row> window_rows(const BatchLayout& layout, std::int64_t window, std::int64_t lane) {
  std::vector<Row> rows(static_cast<std::size_t>(layout.rows_in_window(window)), Row{-1, -1});
  const std::vector<std::int32_t> place = layout.shuffled_rows(window, lane);
  for (const BatchLayout::Piece& piece : layout.pieces(window, lane)) {
    for (std::int64_t i = 0; i < piece.n_rows; ++i) {
      rows[place[piece.window_row + i]] = {piece.block.unit,
                                           piece.block.first_row + piece.skip + i};
    }
  }
  return rows;
}

std::vector<Row> lane_of_batch(const BatchLayout& layout, const BatchPlan& plan, std::int64_t step,
                               std::int64_t lane) {
  const BatchLayout::Place place = layout.place(step);
  const std::vector<Row> rows = window_rows(layout, place.window, lane);
  const auto begin = rows.begin() + place.first_row;
  return {begin, begin + plan.lane_rows()};
}

TEST(BatchLayout, GivesEveryRowAtMostOnceAnEpochAndDropsTheRest) {
  for (const std::int64_t lanes : {1, 2, 4, 8}) {
    for (const std::int64_t window : {1, 12, 20, 1000}) {
      const BatchPlan plan = plan_of(32, lanes, window);
      const BatchLayout layout(kUnitRows, 7, plan);
      EXPECT_EQ(layout.steps_per_epoch(), 13);
      EXPECT_EQ(layout.n_dropped_rows(), 2);
      for (std::int64_t epoch = 0; epoch < 2; ++epoch) {
        std::set<Row> seen;
        for (std::int64_t step = 13 * epoch; step < 13 * (epoch + 1); ++step) {
          for (std::int64_t lane = 0; lane < lanes; ++lane) {
            for (const Row& row : lane_of_batch(layout, plan, step, lane)) {
              ASSERT_GE(row.first, 0);
              ASSERT_LT(row.second, kUnitRows[row.first]);
              ASSERT_TRUE(seen.insert(row).second) << "unit " << row.first << " row " << row.second;
            }
          }
        }
        EXPECT_EQ(seen.size(), 416U);
      }
    }
  }
}

TEST(BatchLayout, IsAPureFunctionOfTheStep) {
  const BatchPlan plan = plan_of(32, 4, 24);
  const BatchLayout layout(kUnitRows, 7, plan);
  std::map<std::int64_t, std::vector<Row>> forward;
  for (std::int64_t step = 0; step < 40; ++step) {
    forward[step] = lane_of_batch(layout, plan, step, 2);
  }
  for (const std::int64_t step : {39, 0, 26, 13, 12, 5, 38}) {
    EXPECT_EQ(lane_of_batch(BatchLayout(kUnitRows, 7, plan), plan, step, 2), forward[step]);
    EXPECT_EQ(lane_of_batch(layout, plan, step, 2), forward[step]);
  }
}

TEST(BatchLayout, OrdersEpochsAndSeedsDifferently) {
  BatchPlan plan = plan_of(32, 4, 24);
  const BatchLayout layout(kUnitRows, 7, plan);
  EXPECT_NE(lane_of_batch(layout, plan, 0, 0), lane_of_batch(layout, plan, 13, 0));
  plan.seed = 12;
  EXPECT_NE(lane_of_batch(BatchLayout(kUnitRows, 7, plan), plan, 0, 0),
            lane_of_batch(layout, plan, 0, 0));
}

TEST(BatchLayout, WindowsAreWholeStepsAndNotLongerThanALane) {
  EXPECT_EQ(BatchLayout(kUnitRows, 7, plan_of(32, 4, 30)).window_rows(), 24);
  EXPECT_EQ(BatchLayout(kUnitRows, 7, plan_of(32, 4, 1)).window_rows(), 8);
  EXPECT_EQ(BatchLayout(kUnitRows, 7, plan_of(32, 4, 65536)).window_rows(), 13 * 8);
}

TEST(BatchLayout, RefusesPlansThatCannotWork) {
  EXPECT_EQ(first_line_of<ConfigError>([] { BatchLayout(kUnitRows, 7, plan_of(32, 3, 8)); }),
            "train.lanes: 3 lanes");
  EXPECT_EQ(first_line_of<ConfigError>([] { BatchLayout(kUnitRows, 7, plan_of(33, 4, 8)); }),
            "train.batch_tokens: 33 rows do not divide into 4 lanes");
  EXPECT_EQ(first_line_of<ConfigError>([] { BatchLayout(kUnitRows, 7, plan_of(512, 4, 8)); }),
            "train.batch_tokens: 512 rows are asked for in a batch, the cache has 418");
}

}  // namespace
}  // namespace thresher::activation_cache
