#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <set>

#include "activation_cache/commit_log.h"
#include "activation_cache/manifest.h"
#include "activation_cache/publish.h"
#include "activation_cache/shard_reader.h"
#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "tests/activation_cache/cache_testing.h"

namespace thresher::activation_cache {
namespace {

using namespace testing;  // NOLINT: what the tests share

template <class T>
std::vector<T> read_dataset(ShardReader& shards, std::int64_t unit, std::size_t dataset) {
  const std::int64_t rows = shards.units()[unit].datasets[dataset].rows;
  const std::int64_t width = shards.datasets()[dataset].row_bytes();
  std::vector<std::byte> all;
  for (std::int64_t b = 0, done = 0; done < rows; ++b) {
    const std::int64_t n = shards.rows_in_block(unit, dataset, b);
    std::vector<std::byte> block(static_cast<std::size_t>(n * width));
    shards.read_block(unit, dataset, b, block);
    all.insert(all.end(), block.begin(), block.end());
    done += n;
  }
  std::vector<T> values(all.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), all.data(), all.size());
  return values;
}

class ShardRoundTrip : public ::testing::TestWithParam<Dtype> {};

TEST_P(ShardRoundTrip, GivesBackEveryRowUnderItsLabels) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity(GetParam());
  write_cache(folder.path(), identity);
  ShardReader shards(folder.path(), identity, read_manifest(folder.path(), identity).units);
  const auto specs = shard_datasets(identity);
  std::set<std::pair<std::int32_t, std::int32_t>> seen;
  for (std::int64_t unit = 0; unit < 5; ++unit) {
    const auto contexts = read_dataset<std::int32_t>(shards, unit, dataset_index(specs, "context"));
    const auto positions =
        read_dataset<std::int32_t>(shards, unit, dataset_index(specs, "position"));
    const auto documents =
        read_dataset<std::int32_t>(shards, unit, dataset_index(specs, "document"));
    ASSERT_EQ(contexts.size(), 120U);
    for (std::size_t hook = 0; hook < 2; ++hook) {
      const auto d_in = static_cast<std::size_t>(identity.hook_points[hook].d_in);
      const auto bytes = read_dataset<std::byte>(shards, unit, hook);
      std::vector<float> values(120 * d_in);
      decode_values(identity.dtype, bytes, values);
      for (std::size_t row = 0; row < 120; ++row) {
        for (std::size_t d = 0; d < d_in; ++d) {
          ASSERT_EQ(values[row * d_in + d],
                    stored_value_at(identity.dtype, hook, contexts[row], positions[row],
                                    static_cast<std::int64_t>(d)));
        }
      }
    }
    for (std::size_t row = 0; row < 120; ++row) {
      EXPECT_EQ(contexts[row] / 8, unit);
      EXPECT_EQ(documents[row], contexts[row] / 3);
      EXPECT_TRUE(seen.emplace(contexts[row], positions[row]).second);
    }
    const auto ids =
        read_dataset<std::int32_t>(shards, unit, dataset_index(specs, "contexts/token_ids"));
    ASSERT_EQ(ids.size(), 128U);
    EXPECT_EQ(ids[16 * 3 + 5], token_id_at(unit * 8 + 3, 5));
  }
  EXPECT_EQ(seen.size(), 600U);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, ShardRoundTrip,
                         ::testing::Values(Dtype::kFloat32, Dtype::kFloat16, Dtype::kBfloat16),
                         [](const auto& dtype) { return std::string(dtype_name(dtype.param)); });

TEST(Shard, RowsAreShuffledInsideTheUnit) {
  const UnitContent owner = unit_content(small_identity(), 0);
  std::int64_t in_order = 0;
  for (std::size_t i = 1; i < owner.content.rows.size(); ++i) {
    in_order += owner.content.rows[i] == owner.content.rows[i - 1] + 1 ? 1 : 0;
  }
  EXPECT_LT(in_order, 10);
}

TEST(Shard, BytesDependOnTheContentAlone) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  const UnitContent owner = unit_content(identity, 2);
  write_shard(folder / "a.h5", identity, owner.content);
  append_bytes(folder / "b.h5",
               std::string(100000, 'x'));  // what stood there before leaves no trace
  write_shard(folder / "b.h5", identity, owner.content);
  EXPECT_EQ(read_bytes(folder / "a.h5"), read_bytes(folder / "b.h5"));
  const UnitContent other = unit_content(identity, 3);
  write_shard(folder / "b.h5", identity, other.content);
  EXPECT_NE(read_bytes(folder / "a.h5"), read_bytes(folder / "b.h5"));
}

TEST(Shard, MayHoldNoRows) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  UnitContent owner = unit_content(identity, 0);
  owner.content.rows.clear();
  owner.content.dropped.first = 128;
  write_shard(folder / "a.h5", identity, owner.content);
  const UnitRecord record = describe_shard(folder / "a.h5", identity, 0);
  EXPECT_EQ(record.rows, 0);
  EXPECT_EQ(record.dropped.first, 128);
  EXPECT_EQ(record.moments[0].count(), 0);
}

TEST(Shard, RecordSurvivesItsJson) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  const UnitContent owner = unit_content(identity, 1);
  write_shard(folder / "a.h5", identity, owner.content);
  const UnitRecord record = describe_shard(folder / "a.h5", identity, 1);
  EXPECT_EQ(record.bytes, thresher::file_size(folder / "a.h5"));
  EXPECT_EQ(record.sha256, sha256_file(folder / "a.h5"));
  const Json json = Json::parse(record.to_json(identity).dump(), "record");
  const UnitRecord again = UnitRecord::from_json(json, identity, "record");
  EXPECT_EQ(again.to_json(identity), record.to_json(identity));
  EXPECT_EQ(again.moments[0].mean(), record.moments[0].mean());
  EXPECT_EQ(again.moments[1].m2(), record.moments[1].m2());
}

TEST(Shard, RecordWhoseCountsDoNotMakeUpTheUnitIsRefused) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_shard(folder / "a.h5", identity, unit_content(identity, 1).content);
  const UnitRecord record = describe_shard(folder / "a.h5", identity, 1);
  const auto problem_with = [&](const DropCounts& dropped) {
    UnitRecord changed = record;
    changed.dropped = dropped;
    const Json json = changed.to_json(identity);
    return first_line_of<DataError>([&] { UnitRecord::from_json(json, identity, "record"); });
  };
  EXPECT_EQ(problem_with(record.dropped), "no error");
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const std::string start = "record: unit 1 has 120 rows and dropped ";
  EXPECT_EQ(problem_with({7, 0, 0, 0}), start + R"({"first":7,"special":0,"norm":0})");
  EXPECT_EQ(problem_with({9, 0, -1, 0}), start + R"({"first":9,"special":0,"norm":-1})");
  EXPECT_EQ(problem_with({most, most, 10, 0}),
            start + fmt::format(R"({{"first":{0},"special":{0},"norm":10}})", most));
}

TEST(Shard, MomentsEqualABruteForceOnStoredValues) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  const UnitContent owner = unit_content(identity, 1);
  write_shard(folder / "a.h5", identity, owner.content);
  const UnitRecord record = describe_shard(folder / "a.h5", identity, 1);
  for (std::int64_t d = 0; d < 12; ++d) {
    double sum = 0, squares = 0;
    for (std::int64_t c = 8; c < 16; ++c) {
      for (std::int64_t p = 1; p < 16; ++p) {
        const double value = stored_value_at(identity.dtype, 0, c, p, d);
        sum += value;
        squares += value * value;
      }
    }
    EXPECT_NEAR(record.moments[0].mean()[d], sum / 120, 1e-12);
    EXPECT_NEAR(record.moments[0].m2()[d], squares - sum * sum / 120, 1e-9);
  }
  EXPECT_LE(record.norm_quantiles[0].front(), record.norm_quantiles[0][4]);
  EXPECT_LE(record.norm_quantiles[0][4], record.norm_quantiles[0].back());
}

TEST(Shard, OfAnotherUnitIsRefused) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  const UnitContent owner = unit_content(identity, 2);
  write_shard(folder / "a.h5", identity, owner.content);
  EXPECT_EQ(first_line_of<DataError>([&] { describe_shard(folder / "a.h5", identity, 3); }),
            (folder / "a.h5").string() + ": version 1, unit 2, first context 16");
}

TEST(Shard, OfAnotherDtypeOrWidthIsRefused) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  const UnitContent owner = unit_content(identity, 2);
  const std::string path = (folder / "a.h5").string();
  write_shard(path, identity, owner.content);
  EXPECT_EQ(
      first_line_of<DataError>([&] { describe_shard(path, small_identity(Dtype::kFloat16), 2); }),
      path + ": activations/blocks.0.hook_resid_post has another element type");
  CacheIdentity wider = identity;
  wider.hook_points[1].d_in = 6;
  EXPECT_EQ(first_line_of<DataError>([&] { describe_shard(path, wider, 2); }),
            path + ": activations/hook_embed has another shape");
}

TEST(Shard, ThatIsNoHdf5FileIsRefused) {
  const ScratchFolder folder;
  append_bytes(folder / "a.h5", "not HDF5");
  EXPECT_THROW(describe_shard(folder / "a.h5", small_identity(), 0), DataError);
}

TEST(Identity, SurvivesItsFile) {
  const ScratchFolder folder;
  CacheIdentity identity = small_identity();
  identity.drop_norm_above = 10;
  identity.norm_limits = {1500.25, 0.1};
  write_identity(folder.path(), identity);
  EXPECT_EQ(read_identity(folder.path()).to_json(), identity.to_json());
}

TEST(Identity, NamesTheFirstDifference) {
  const CacheIdentity identity = small_identity();
  CacheIdentity other = identity;
  other.dtype = Dtype::kFloat32;
  other.seed = 8;
  EXPECT_EQ(
      first_line_of<ConfigError>([&] { check_same_identity("c", identity.to_json(), other); }),
      "c/cache.json: this cache was made with other settings: dtype: \"bfloat16\", \"float32\"");
}

TEST(Identity, OfAFolderWithoutCacheIsAConfigError) {
  const ScratchFolder folder;
  EXPECT_EQ(first_line_of<ConfigError>([&] { read_identity(folder.path()); }),
            folder.path().string() + ": there is no activation cache here");
}

TEST(Identity, WithHostileSizesIsRefused) {
  Json json = small_identity().to_json();
  json["context_tokens"] = std::int64_t{1} << 60;
  EXPECT_EQ(first_line_of<DataError>([&] { CacheIdentity::from_json(json, "x"); }),
            "x: context_tokens is 1152921504606846976");
  json = small_identity().to_json();
  json["hook_points"] = Json::array({Json::object({{"name", "../up"}, {"d_in", 4}})});
  EXPECT_EQ(first_line_of<DataError>([&] { CacheIdentity::from_json(json, "x"); }),
            "x: hook point name \"../up\" is malformed or stands there twice");
}

TEST(Manifest, HoldsTheMomentsOfTheWholeCache) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity);
  const Manifest manifest = read_manifest(folder.path(), identity);
  EXPECT_EQ(manifest.rows, 600);
  EXPECT_EQ(manifest.dropped.first, 40);
  double squared_norms = 0;
  std::vector<double> sums(12);
  for (std::int64_t c = 0; c < 40; ++c) {
    for (std::int64_t p = 1; p < 16; ++p) {
      for (std::int64_t d = 0; d < 12; ++d) {
        const double value = stored_value_at(identity.dtype, 0, c, p, d);
        sums[d] += value;
        squared_norms += value * value;
      }
    }
  }
  double squared_mean = 0;
  for (std::int64_t d = 0; d < 12; ++d) {
    EXPECT_NEAR(manifest.statistics[0].mean[d], sums[d] / 600, 1e-12);
    squared_mean += sums[d] / 600 * (sums[d] / 600);
  }
  EXPECT_EQ(manifest.statistics[0].n_rows, 600);
  EXPECT_NEAR(manifest.statistics[0].mean_squared_norm, squared_norms / 600, 1e-9);
  EXPECT_NEAR(manifest.statistics[0].mean_squared_deviation, squared_norms / 600 - squared_mean,
              1e-9);
}

TEST(Manifest, FindsAFlippedBitInItself) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity);
  const std::string path = (folder / "MANIFEST.json").string();
  const std::string text = read_bytes(path);
  const std::size_t digit = text.find("\"rows\": 600") + 8;
  flip_bit(path, digit * 8);  // 6 -> 7
  EXPECT_EQ(first_line_of<DataError>([&] { read_manifest(folder.path(), identity); }),
            path + ": the manifest does not match its own checksum");
}

TEST(Manifest, IsTheSameWhoeverMadeTheUnits) {
  const ScratchFolder one, two;
  const CacheIdentity identity = small_identity();
  write_cache(one.path(), identity);
  write_cache(two.path(), identity, {4, 1}, 3);
  write_cache(two.path(), identity, {3, 0, 2}, 1);
  EXPECT_EQ(promised_bytes(one.path()), promised_bytes(two.path()));
}

}  // namespace
}  // namespace thresher::activation_cache
