#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <thread>

#include "activation_cache/commit_log.h"
#include "activation_cache/harvest/harvest_plan.h"
#include "activation_cache/manifest.h"
#include "activation_cache/shard_reader.h"
#include "core/error.h"
#include "core/files.h"
#include "core/stop_signal.h"
#include "tests/activation_cache/harvest_testing.h"

namespace thresher::activation_cache {
namespace {

using namespace testing;  // NOLINT: what the tests share

class Harvest : public ::testing::Test {
 protected:
  void TearDown() override { set_stop_requested(false); }
  HarvestSetup setup(int ranks = 1) const { return {fake_config(folder_.path()), ranks}; }
  ScratchFolder folder_;
};

TEST_F(Harvest, GivesTheSameBytesForAnyNumberOfRanks) {
  HarvestSetup one = setup();
  const HarvestResult result = run_harvest(one);
  EXPECT_EQ(result.tokens, 44800);
  EXPECT_FALSE(result.was_complete);
  const auto expected = promised_bytes(folder_.path());
  ASSERT_EQ(expected.size(), 8U);  // cache.json, the manifest, six shards
  for (const int ranks : {2, 3, 4, 7}) {
    const ScratchFolder folder;
    const HarvestResult again = run_harvest({fake_config(folder.path()), ranks});
    EXPECT_EQ(again.tokens, 44800);
    EXPECT_EQ(again.rows, result.rows);
    EXPECT_EQ(promised_bytes(folder.path()), expected) << ranks << " ranks";
  }
}

/// What the rules leave, by brute force.
struct Expected {
  std::vector<double> limits;
  DropCounts dropped;
  std::map<std::pair<std::int32_t, std::int32_t>, std::int32_t> kept;  // context, position: token
};

double norm_at(const host_model::HookPoint& hook, const corpus::PackedContexts& contexts,
               std::int64_t i) {
  double sum = 0;
  for (std::int64_t d = 0; d < 12; ++d) {
    const double value = FakeHost::value(hook, contexts.token_ids[i], contexts.positions[i], d);
    sum += value * value;
  }
  return std::sqrt(sum);
}

Expected expected_rows(const corpus::PackedContexts& contexts,
                       const std::vector<host_model::HookPoint>& hooks) {
  Expected expected;
  for (const host_model::HookPoint& hook : hooks) {
    std::vector<double> norms;
    for (std::int64_t i = 0; i < 8192; ++i) {
      if (contexts.positions[i] > 0) norms.push_back(norm_at(hook, contexts, i));
    }
    std::sort(norms.begin(), norms.end());
    const std::size_t n = norms.size();
    expected.limits.push_back(10 * (norms[(n - 1) / 2] + norms[n / 2]) / 2);
  }
  for (std::int64_t i = 0; i < 44800; ++i) {
    if (contexts.positions[i] == 0) {
      ++expected.dropped.first;
    } else if (contexts.token_ids[i] == 2) {
      ++expected.dropped.special;
    } else if (norm_at(hooks[0], contexts, i) > expected.limits[0] ||
               norm_at(hooks[1], contexts, i) > expected.limits[1]) {
      ++expected.dropped.norm;
    } else {
      expected.kept[{static_cast<std::int32_t>(i / 64), static_cast<std::int32_t>(i % 64)}] =
          contexts.token_ids[i];
    }
  }
  return expected;
}

/// A dataset of a unit that is one block.
template <class T>
std::vector<T> read_unit(ShardReader& shards, std::int64_t unit, const char* dataset,
                         std::size_t n) {
  std::vector<T> values(n);
  shards.read_block(unit, dataset_index(shards.datasets(), dataset), 0,
                    std::as_writable_bytes(std::span(values)));
  return values;
}

TEST_F(Harvest, KeepsWhatTheRulesSayAndCountsTheRest) {
  run_harvest(setup());
  const corpus::PackedContexts contexts = fake_contexts();
  const CacheIdentity identity = read_identity(folder_.path());
  const Manifest manifest = read_manifest(folder_.path(), identity);
  const std::vector<host_model::HookPoint> hooks = parse_hook_points(identity);
  Expected expected = expected_rows(contexts, hooks);
  EXPECT_EQ(identity.norm_limits, expected.limits);
  EXPECT_EQ(manifest.dropped, expected.dropped);
  EXPECT_GT(expected.dropped.first, 1000);
  EXPECT_GT(expected.dropped.special, 30);
  EXPECT_GT(expected.dropped.norm, 30);
  EXPECT_EQ(manifest.rows, static_cast<std::int64_t>(expected.kept.size()));

  ShardReader shards(folder_.path(), identity, manifest.units);
  for (std::int64_t unit = 0; unit < 6; ++unit) {
    const auto rows = static_cast<std::size_t>(manifest.units[unit].rows);
    const auto context = read_unit<std::int32_t>(shards, unit, "context", rows);
    const auto position = read_unit<std::int32_t>(shards, unit, "position", rows);
    const auto bits =
        read_unit<std::uint16_t>(shards, unit, "activations/blocks.1.hook_mlp_out", rows * 12);
    for (std::size_t row = 0; row < rows; ++row) {
      const auto found = expected.kept.find({context[row], position[row]});
      ASSERT_NE(found, expected.kept.end());
      const std::int64_t restarted = contexts.positions[context[row] * 64 + position[row]];
      for (std::int64_t d = 0; d < 12; ++d) {
        ASSERT_EQ(bits[row * 12 + d],
                  float_to_bfloat16(FakeHost::value(hooks[1], found->second, restarted, d)));
      }
      expected.kept.erase(found);
    }
  }
  EXPECT_TRUE(expected.kept.empty());
}

TEST_F(Harvest, SharesItsRuleWithEvaluation) {
  run_harvest(setup());
  const corpus::PackedContexts contexts = fake_contexts();
  const CacheIdentity identity = read_identity(folder_.path());
  const std::vector<host_model::HookPoint> hooks = parse_hook_points(identity);
  const std::int64_t n = 128 * 64;  // unit 0
  const at::Tensor ids = at::empty({128, 64}, at::kLong),
                   positions = at::empty({128, 64}, at::kLong);
  std::vector<at::Tensor> activations = {at::empty({n, 12}), at::empty({n, 12})};
  for (std::int64_t i = 0; i < n; ++i) {
    ids.mutable_data_ptr<std::int64_t>()[i] = contexts.token_ids[i];
    positions.mutable_data_ptr<std::int64_t>()[i] = contexts.positions[i];
    for (std::size_t hook = 0; hook < 2; ++hook) {
      for (std::int64_t d = 0; d < 12; ++d) {
        activations[hook].mutable_data_ptr<float>()[i * 12 + d] =
            FakeHost::value(hooks[hook], contexts.token_ids[i], contexts.positions[i], d);
      }
    }
  }
  const CacheConfig config = fake_config(folder_.path());
  const auto kept = kept_positions(config, FakeTokenizer(), ids, positions, activations,
                                   read_norm_limits(identity.to_json()));
  const Manifest manifest = read_manifest(folder_.path(), identity);
  EXPECT_EQ(std::count(kept.begin(), kept.end(), 1), manifest.units[0].rows);
  ShardReader shards(folder_.path(), identity, manifest.units);
  const auto n_rows = static_cast<std::size_t>(manifest.units[0].rows);
  const auto context = read_unit<std::int32_t>(shards, 0, "context", n_rows);
  const auto position = read_unit<std::int32_t>(shards, 0, "position", n_rows);
  for (std::size_t row = 0; row < context.size(); ++row) {
    EXPECT_EQ(kept[context[row] * 64 + position[row]], 1);
  }
  // A row with a NaN is never one that counts.
  activations[1].mutable_data_ptr<float>()[12 * 5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(
      kept_positions(config, FakeTokenizer(), ids, positions, activations, identity.norm_limits)[5],
      0);
}

TEST_F(Harvest, WithoutANormLimitKeepsTheSinks) {
  HarvestSetup all = setup(2);
  all.config.drop_norm_above = 0;
  all.config.drop_first_positions = 0;
  all.config.drop_special_tokens = false;
  EXPECT_EQ(run_harvest(all).rows, 44800);
  EXPECT_TRUE(read_norm_limits(read_cache_identity(folder_.path())).empty());
}

TEST_F(Harvest, StopsOnRequestAndContinuesWithTheSameBytes) {
  const ScratchFolder reference;
  run_harvest({fake_config(reference.path())});
  for (const auto& [stopped_ranks, pass, ranks] : {std::tuple{1, 5, 3}, {3, 2, 1}, {2, 0, 4}}) {
    const ScratchFolder folder;
    HarvestSetup stopping{fake_config(folder.path()), stopped_ranks};
    stopping.prepare_host = [pass](FakeHost& host, int rank) {
      host.before_pass = [rank, pass](int number) {
        if (rank == 0 && number == pass) set_stop_requested(true);
      };
    };
    const std::string line = first_line_of<StoppedBySignal>([&] { run_harvest(stopping); });
    EXPECT_NE(line.find(": harvest stopped by a signal with "), std::string::npos) << line;
    EXPECT_NE(line.find(" of 6 units saved"), std::string::npos) << line;
    EXPECT_FALSE(is_cache_complete(folder.path()));
    set_stop_requested(false);
    run_harvest({fake_config(folder.path()), ranks});
    EXPECT_EQ(promised_bytes(folder.path()), promised_bytes(reference.path()));
  }
}

TEST_F(Harvest, OfACompleteCacheDoesNothing) {
  run_harvest(setup());
  std::filesystem::remove(shard_path(folder_.path(), 3));  // not even looked at
  const FolderLock held(folder_.path(), "test");
  for (const int ranks : {1, 2}) {
    const HarvestResult again = run_harvest(setup(ranks));
    EXPECT_TRUE(again.was_complete);
    EXPECT_EQ(again.tokens, 0);
    EXPECT_EQ(again.rows, read_manifest(folder_.path(), read_identity(folder_.path())).rows);
  }
}

TEST_F(Harvest, GoesOnOnTheDeviceThatBeganButACompleteCacheServesAll) {
  HarvestSetup on_gpu = setup();
  on_gpu.prepare_host = [](FakeHost& host, int) {
    host.pretend_device(Device::kCuda);
    host.before_pass = [](int number) {
      if (number == 3) set_stop_requested(true);
    };
  };
  first_line_of<StoppedBySignal>([&] { run_harvest(on_gpu); });
  set_stop_requested(false);
  EXPECT_EQ(first_line_of<ConfigError>([&] { run_harvest(setup()); }),
            (folder_ / "cache.json").string() +
                ": this cache was made with other settings: host_model.device: \"cuda\", absent");
  on_gpu.prepare_host = [](FakeHost& host, int) { host.pretend_device(Device::kCuda); };
  EXPECT_FALSE(run_harvest(on_gpu).was_complete);
  EXPECT_TRUE(run_harvest(setup()).was_complete);
  EXPECT_EQ(read_identity(folder_.path()).host_device, Device::kCuda);
}

TEST_F(Harvest, RefusesACacheMadeWithOtherSettings) {
  run_harvest(setup());
  const std::string where =
      (folder_ / "cache.json").string() + ": this cache was made with other settings: ";
  HarvestSetup other = setup();
  other.config.dtype = "float32";
  EXPECT_EQ(first_line_of<ConfigError>([&] { run_harvest(other); }),
            where + "dtype: \"bfloat16\", \"float32\"");
  other = setup(2);
  other.seed = 10;
  EXPECT_EQ(first_line_of<ConfigError>([&] { run_harvest(other); }),
            "rank 0: " + where + "seed: 9, 10");
  other = setup();
  other.config.drop_norm_above = 0;
  EXPECT_EQ(first_line_of<ConfigError>([&] { run_harvest(other); }).substr(0, where.size()), where);
}

TEST_F(Harvest, RefusesAFolderThatAnotherHarvestHolds) {
  const FolderLock held(folder_.path(), "harvest");
  const std::string start =
      folder_.path().string() + ": harvest cannot start, the folder is locked by harvest on host ";
  EXPECT_EQ(first_line_of<ConfigError>([&] { run_harvest(setup()); }).substr(0, start.size()),
            start);
}

TEST_F(Harvest, RefusesShardsWithoutAnIdentity) {
  std::filesystem::create_directories(folder_ / "shards");
  append_bytes(folder_ / "shards/00000000.h5", "whose?");
  EXPECT_EQ(first_line_of<ConfigError>([&] { run_harvest(setup()); }),
            folder_.path().string() + ": there are shards but no cache.json");
  EXPECT_EQ(read_bytes(folder_ / "shards/00000000.h5"), "whose?");
}

TEST_F(Harvest, NamesTheHookPointThatOverflowsFloat16) {
  HarvestSetup half = setup();
  half.config.dtype = "float16";
  half.config.drop_norm_above = 0;
  half.prepare_host = [](FakeHost& host, int) { host.planted[{499, 3}] = -70000.0F; };
  const std::string line = first_line_of<DataError>([&] { run_harvest(half); });
  EXPECT_EQ(
      line,
      "harvest: blocks.0.hook_resid_post: magnitude 70000 does not fit float16 (unit 0, context 2, "
      "position 22)");
}

TEST_F(Harvest, LetsDroppedSinksOverflow) {
  HarvestSetup half = setup();
  half.config.dtype = "float16";
  half.prepare_host = [](FakeHost& host, int) { host.planted[{499, 3}] = -70000.0F; };
  run_harvest(half);
  EXPECT_TRUE(is_cache_complete(folder_.path()));
}

TEST_F(Harvest, RefusesActivationsThatAreNotFinite) {
  HarvestSetup broken = setup();
  broken.prepare_host = [](FakeHost& host, int) {
    host.planted[{499, 3}] = std::numeric_limits<float>::quiet_NaN();
  };
  const std::string line = first_line_of<DataError>([&] { run_harvest(broken); });
  EXPECT_EQ(line,
            "harvest: blocks.1.hook_mlp_out: an activation is not finite (unit 0, context 2, "
            "position 22)");
}

TEST_F(Harvest, EndsOnAllRanksWhenOneFailsAndKeepsWhatIsDone) {
  const ScratchFolder reference;
  run_harvest({fake_config(reference.path())});
  HarvestSetup failing = setup(3);
  failing.prepare_host = [](FakeHost& host, int rank) {
    host.before_pass = [rank](int number) {
      if (rank == 1 && number == 3) throw IoError("the weights went away");
    };
  };
  EXPECT_EQ(first_line_of<IoError>([&] { run_harvest(failing); }), "rank 1: the weights went away");
  run_harvest(setup(2));
  EXPECT_EQ(promised_bytes(folder_.path()), promised_bytes(reference.path()));
}

TEST_F(Harvest, FailingBeforeTheNormLimitsReleasesTheOtherRanks) {
  HarvestSetup failing = setup(3);
  failing.prepare_host = [](FakeHost& host, int rank) {
    host.before_pass = [rank](int) {
      if (rank == 0) throw IoError("the weights went away");
    };
  };
  EXPECT_EQ(first_line_of<IoError>([&] { run_harvest(failing); }), "rank 0: the weights went away");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "cache.json"));
}

TEST_F(Harvest, WaitsForASlowRankBeyondTheDeadlineOfACall) {
  HarvestSetup slow = setup(2);
  slow.timeout_seconds = 0.8;
  slow.prepare_host = [](FakeHost& host, int rank) {
    host.before_pass = [rank](int number) {
      if (rank == 1 && number == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2500));
    };
  };
  run_harvest(slow);
  EXPECT_TRUE(is_cache_complete(folder_.path()));
}

TEST_F(Harvest, EndsWhenARankStandsStillThoughItsPulseGoesOn) {
  HarvestSetup hanging = setup(3);
  hanging.config.stall_seconds = 0.5;
  std::atomic<bool> is_over = false;
  hanging.prepare_host = [&](FakeHost& host, int rank) {
    host.before_pass = [&is_over, rank](int number) {
      while (rank == 1 && number == 1 && !is_over) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    };
  };
  std::thread release([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(2500));
    is_over = true;
  });
  const std::string line = first_line_of<CommError>([&] { run_harvest(hanging); });
  release.join();
  EXPECT_EQ(line.rfind("rank 1 of 3 (host ", 0), 0U) << line;
  EXPECT_NE(line.find(") is alive and has computed nothing for 0."), std::string::npos) << line;
  run_harvest(setup(2));
  EXPECT_TRUE(is_cache_complete(folder_.path()));
}

TEST_F(Harvest, RefusesConfigsThatCannotWork) {
  const auto line = [&](const std::function<void(CacheConfig&)>& change) {
    HarvestSetup bad = setup();
    change(bad.config);
    return first_line_of<ConfigError>([&] { run_harvest(bad); });
  };
  EXPECT_EQ(line([](CacheConfig& c) { c.hook_points = {}; }),
            "cache.hook_points: no hook point is given");
  EXPECT_EQ(line([](CacheConfig& c) {
              c.hook_points = {"hook_embed", "hook_embed"};
            }),
            "cache.hook_points: hook_embed stands there twice");
  EXPECT_EQ(line([](CacheConfig& c) { c.hook_points = {"blocks.2.hook_resid_post"}; }),
            "cache.hook_points: blocks.2.hook_resid_post is not in this model");
  EXPECT_EQ(line([](CacheConfig& c) { c.unit_tokens = 63; }),
            "cache.unit_tokens: 63 is less than one context of 64 tokens");
  EXPECT_TRUE(list_folder(folder_.path()).empty());
}

TEST_F(Harvest, EstimateCoversWhatIsWritten) {
  const corpus::PackedContexts contexts = fake_contexts();
  const CacheConfig config = fake_config(folder_.path());
  const FakeHost host;
  const HarvestEstimate before = estimate_harvest(config, contexts, host, 1);
  EXPECT_EQ(before.units, 6);
  EXPECT_EQ(before.units_left, 6);
  EXPECT_EQ(before.tokens, 44800);
  EXPECT_GT(before.memory_bytes_per_rank, 8192U * 2U * 24U);
  run_harvest(setup());
  const std::uint64_t bytes = read_manifest(folder_.path(), read_identity(folder_.path())).bytes;
  EXPECT_GE(before.disk_bytes, bytes);
  const HarvestEstimate after = estimate_harvest(config, contexts, host, 1);
  EXPECT_EQ(after.units_left, 0);
  EXPECT_EQ(after.disk_bytes, 0U);
}

TEST_F(Harvest, EstimateKnowsTheTypeOfTheHostModel) {
  const corpus::PackedContexts contexts = fake_contexts();
  const CacheConfig config = fake_config(folder_.path());
  const HarvestEstimate wide = estimate_harvest(config, contexts, FakeHost(), 1);
  const HarvestEstimate brief = estimate_harvest(config, contexts, FakeHost(Dtype::kBfloat16), 1);
  // Half of the parameters and of a pass's buffers: 64 contexts of 64 tokens, width 12, 24 values.
  const std::uint64_t parameters = 12 * 1000 + 2 * 12 * 12 * 12;
  EXPECT_EQ(wide.memory_bytes_per_rank - brief.memory_bytes_per_rank,
            2 * (parameters + 64 * 64 * 12 * 24));
  EXPECT_EQ(wide.seconds, wide.seconds_in_float32);
  EXPECT_GT(brief.seconds_in_float32, 0);
}

}  // namespace
}  // namespace thresher::activation_cache
