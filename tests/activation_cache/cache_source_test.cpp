#include <gtest/gtest.h>

#include <map>
#include <set>

#include "activation_cache/cache.h"
#include "activation_cache/cache_source.h"
#include "core/error.h"
#include "tests/activation_cache/cache_testing.h"

namespace thresher::activation_cache {
namespace {

using namespace testing;  // NOLINT: what the tests share

BatchPlan small_plan(std::int64_t lanes = 4, std::int64_t window = 24) {
  return {.batch_tokens = 32, .lanes = lanes, .shuffle_window_tokens = window, .seed = 5};
}

std::vector<float> read_lane(ActivationSource& source, std::int64_t step, std::int64_t lane,
                             std::size_t hook, std::int64_t lane_rows = 8) {
  std::vector<float> values(static_cast<std::size_t>(lane_rows * source.hook_points()[hook].d_in));
  source.read(step, lane, hook, values);
  return values;
}

class CacheSourceTest : public ::testing::Test {
 protected:
  void SetUp() override { write_cache(folder_.path(), identity_); }
  ScratchFolder folder_;
  CacheIdentity identity_ = small_identity();
};

TEST_F(CacheSourceTest, ServesEveryRowOfTheCacheOnceAnEpoch) {
  std::set<std::vector<float>> rows;
  for (std::int64_t c = 0; c < 40; ++c) {
    for (std::int64_t p = 1; p < 16; ++p) {
      std::vector<float> row;
      for (std::int64_t d = 0; d < 12; ++d) {
        row.push_back(stored_value_at(identity_.dtype, 0, c, p, d));
      }
      rows.insert(row);
    }
  }
  ASSERT_EQ(rows.size(), 600U);
  const auto source = open_cache_source(folder_.path());
  source->start(small_plan(), 0, 0, 4);
  EXPECT_EQ(source->steps_per_epoch(), 18);
  EXPECT_EQ(source->n_dropped_rows_per_epoch(), 24);
  std::set<std::vector<float>> seen;
  for (std::int64_t step = 0; step < 18; ++step) {
    for (std::int64_t lane = 0; lane < 4; ++lane) {
      const std::vector<float> values = read_lane(*source, step, lane, 0);
      for (std::size_t i = 0; i < 8; ++i) {
        const std::vector<float> row(values.begin() + i * 12, values.begin() + (i + 1) * 12);
        EXPECT_TRUE(rows.contains(row));
        EXPECT_TRUE(seen.insert(row).second);
      }
    }
  }
  EXPECT_EQ(seen.size(), 576U);
}

TEST_F(CacheSourceTest, HookPointsShareTheirRows) {
  const auto source = open_cache_source(folder_.path());
  source->start(small_plan(), 0, 0, 4);
  std::map<std::vector<float>, std::vector<float>> twin;
  for (std::int64_t c = 0; c < 40; ++c) {
    for (std::int64_t p = 1; p < 16; ++p) {
      std::vector<float> first, second;
      for (int d = 0; d < 12; ++d) first.push_back(stored_value_at(identity_.dtype, 0, c, p, d));
      for (int d = 0; d < 5; ++d) second.push_back(stored_value_at(identity_.dtype, 1, c, p, d));
      twin[first] = second;
    }
  }
  for (const std::int64_t step : {0, 7, 17, 30}) {
    const auto first = read_lane(*source, step, 3, 0);
    const auto second = read_lane(*source, step, 3, 1);
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_EQ(twin.at({first.begin() + i * 12, first.begin() + (i + 1) * 12}),
                (std::vector<float>{second.begin() + i * 5, second.begin() + (i + 1) * 5}));
    }
  }
}

TEST_F(CacheSourceTest, GivesTheSameLanesWhoeverOwnsThem) {
  const auto all = open_cache_source(folder_.path());
  all->start(small_plan(), 0, 0, 4);
  for (const std::int64_t ranks : {2, 4}) {
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      const auto part = open_cache_source(folder_.path());
      const std::int64_t n = 4 / ranks;
      part->start(small_plan(), 0, rank * n, n);
      for (std::int64_t step = 0; step < 40; ++step) {
        for (std::int64_t lane = rank * n; lane < (rank + 1) * n; ++lane) {
          ASSERT_EQ(read_lane(*part, step, lane, 0), read_lane(*all, step, lane, 0));
        }
      }
    }
  }
}

TEST_F(CacheSourceTest, GivesTheSameBatchInAnyOrderOfSteps) {
  const auto forward = open_cache_source(folder_.path());
  forward->start(small_plan(), 0, 0, 4);
  std::map<std::int64_t, std::vector<float>> expected;
  for (std::int64_t step = 0; step < 60; ++step) expected[step] = read_lane(*forward, step, 1, 0);
  const auto jumping = open_cache_source(folder_.path());
  jumping->start(small_plan(), 50, 0, 4);
  for (const std::int64_t step : {50, 51, 52, 3, 59, 58, 0, 18, 17, 36, 36, 2}) {
    EXPECT_EQ(read_lane(*jumping, step, 1, 0), expected[step]) << "step " << step;
  }
}

TEST_F(CacheSourceTest, HoldsAtMostTwoWindowsALaneOfTheHookPointsInUse) {
  CacheSource source(folder_.path());
  source.start(small_plan(), 0, 0, 4);
  const std::uint64_t window_bytes = 24 * 12 * 2;
  for (std::int64_t step = 0; step < 100; ++step) {
    for (std::int64_t lane = 0; lane < 4; ++lane) read_lane(source, step, lane, 0);
  }
  EXPECT_LE(source.loader_statistics().peak_buffer_bytes, 4 * 2 * window_bytes);
  for (const std::int64_t step : {90, 3, 70, 11, 12, 55}) {
    for (std::int64_t lane = 0; lane < 4; ++lane) read_lane(source, step, lane, 0);
  }
  EXPECT_LE(source.loader_statistics().peak_buffer_bytes, 4 * 2 * window_bytes);
  EXPECT_GT(source.loader_statistics().peak_buffer_bytes, 0U);
}

TEST_F(CacheSourceTest, ReadsEachByteOnceAnEpochButForSharedBlocks) {
  CacheSource source(folder_.path());
  source.start(small_plan(4, 1000), 0, 0, 4);
  for (std::int64_t step = 0; step < 18; ++step) {
    for (std::int64_t lane = 0; lane < 4; ++lane) read_lane(source, step, lane, 0);
  }
  source.start(small_plan(4, 1000), 0, 0, 1);  // joins the readers
  CacheSource fresh(folder_.path());
  fresh.start(small_plan(4, 1000), 0, 0, 4);
  read_lane(fresh, 0, 0, 0);
  // One window is a whole lane here: 144 rows of 24 bytes, and at most one block more at either
  // end.
  for (std::int64_t lane = 1; lane < 4; ++lane) read_lane(fresh, 0, lane, 0);
  EXPECT_GE(fresh.loader_statistics().bytes_read, 576U * 24U);
  EXPECT_LE(fresh.loader_statistics().bytes_read, 2U * (576U + 4U * 14U) * 24U);
}

TEST_F(CacheSourceTest, NamesTheDamagedRowsItWouldHaveRead) {
  const auto units = read_manifest(folder_.path(), identity_).units;
  const std::uint64_t byte = units[2].datasets[0].offset + 30 * 24;  // row 30: block 28 to 35
  flip_bit(shard_path(folder_.path(), 2), byte * 8);
  const auto source = open_cache_source(folder_.path());
  source->start(small_plan(), 0, 0, 4);
  // Three epochs: a single one may drop just these rows.
  const auto read_all = [&](std::size_t hook) {
    for (std::int64_t step = 0; step < 54; ++step) {
      for (std::int64_t lane = 0; lane < 4; ++lane) read_lane(*source, step, lane, hook);
    }
  };
  const std::string line = first_line_of<DataError>([&] { read_all(0); });
  EXPECT_EQ(line.substr(0, line.rfind(' ')),
            shard_path(folder_.path(), 2).string() +
                ": activations/blocks.0.hook_resid_post rows 28 to 35 are damaged: CRC-32C");
  EXPECT_NO_THROW(read_all(1)) << "the other hook point is sound";
}

TEST_F(CacheSourceTest, RefusesAShardOfAnotherSize) {
  append_bytes(shard_path(folder_.path(), 4), "x");
  const std::string path = shard_path(folder_.path(), 4).string();
  EXPECT_EQ(
      first_line_of<DataError>([&] { open_cache_source(folder_.path()); }),
      path + ": the shard has " + std::to_string(std::filesystem::file_size(path)) + " bytes");
}

TEST_F(CacheSourceTest, SamplesDistinctRowsThatDependOnTheSeedAlone) {
  const auto source = open_cache_source(folder_.path());
  const auto sample = [&](std::uint64_t seed, std::int64_t n) {
    std::vector<float> values(static_cast<std::size_t>(n * 12));
    source->sample_rows(0, seed, n, values);
    return values;
  };
  const std::vector<float> all = sample(1, 600);
  std::set<std::vector<float>> distinct;
  for (std::size_t i = 0; i < 600; ++i) {
    distinct.insert({all.begin() + i * 12, all.begin() + (i + 1) * 12});
  }
  EXPECT_EQ(distinct.size(), 600U);
  EXPECT_EQ(sample(1, 50), sample(1, 50));
  EXPECT_NE(sample(1, 50), sample(2, 50));
  EXPECT_EQ(first_line_of<ConfigError>([&] { sample(1, 601); }),
            "train.init_sample_rows: 601 rows are asked for, the cache has 600");
}

TEST_F(CacheSourceTest, NamesTheHookPointsThereAre) {
  const auto source = open_cache_source(folder_.path());
  EXPECT_EQ(source->hook_index("hook_embed"), 1U);
  EXPECT_EQ(first_line_of<ConfigError>([&] { source->hook_index("hook_embd"); }),
            "activation source: there is no hook point \"hook_embd\"");
}

TEST_F(CacheSourceTest, IdentityChangesWithTheContent) {
  const ScratchFolder other;
  CacheIdentity changed = identity_;
  changed.seed = 8;
  write_cache(other.path(), changed);
  const Json here = open_cache_source(folder_.path())->identity();
  EXPECT_EQ(here, open_cache_source(folder_.path())->identity());
  EXPECT_NE(here.at("shards_sha256"),
            open_cache_source(other.path())->identity().at("shards_sha256"));
}

TEST(CacheInfo, MeasuresTheShuffle) {
  const ScratchFolder folder;
  CacheIdentity identity = small_identity();
  identity.n_contexts = 400;
  write_cache(folder.path(), identity);
  BatchPlan plan{.batch_tokens = 64, .lanes = 4, .shuffle_window_tokens = 4096, .seed = 5};
  const Json good = cache_info(folder.path(), plan);
  EXPECT_EQ(good.at("rows").as_int(), 6000);
  EXPECT_EQ(good.at("dropped").at("first").as_int(), 400);
  EXPECT_TRUE(good.at("complete").as_bool());
  // 400 contexts of 15 rows: two random rows share one with chance 14 / 5999; 2016 pairs in a
  // batch.
  EXPECT_NEAR(good.at("shuffle").at("same_context").at("pairs_in_ideal_batch").as_double(),
              2016.0 * 14 / 5999, 1e-9);
  EXPECT_NEAR(good.at("shuffle").at("same_context").at("ratio").as_double(), 1.0, 0.35);
  EXPECT_NEAR(good.at("shuffle").at("same_document").at("ratio").as_double(), 1.0, 0.35);
  // Windows of one step hold a few blocks of 7 rows of the same unit: a visibly worse mixture.
  plan.shuffle_window_tokens = 16;
  const Json poor = cache_info(folder.path(), plan);
  EXPECT_GT(poor.at("shuffle").at("same_context").at("ratio").as_double(), 2.0);
}

TEST(CacheInfo, ShowsHowFarAnUnfinishedCacheIs) {
  const ScratchFolder folder;
  write_cache(folder.path(), small_identity(), {1, 2});
  const Json info = cache_info(folder.path(), {});
  EXPECT_FALSE(info.at("complete").as_bool());
  EXPECT_EQ(info.at("units").as_int(), 5);
  EXPECT_EQ(info.at("units_committed").as_int(), 2);
  EXPECT_EQ(info.at("rows").as_int(), 240);
  EXPECT_TRUE(info.at("shuffle").is_null());
}

}  // namespace
}  // namespace thresher::activation_cache
