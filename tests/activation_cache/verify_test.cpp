#include <gtest/gtest.h>

#include "activation_cache/activation_source.h"
#include "activation_cache/cache.h"
#include "activation_cache/manifest.h"
#include "activation_cache/publish.h"
#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "tests/activation_cache/cache_testing.h"

namespace thresher::activation_cache {
namespace {

using namespace testing;  // NOLINT: what the tests share

/// What verify must say about one flipped bit, worked out from the recorded places alone.
struct Expectation {
  std::string dataset = "metadata";
  std::int64_t first_row = 0, end_row = 0;
};

Expectation expect_damage(const CacheIdentity& identity, const UnitRecord& record,
                          std::uint64_t byte) {
  const auto specs = shard_datasets(identity);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const DatasetPlace& place = record.datasets[i];
    if (byte >= place.offset && byte < place.offset + place.bytes) {
      const auto row = static_cast<std::int64_t>(byte - place.offset) / specs[i].row_bytes();
      const std::int64_t first = row / 7 * 7;
      return {specs[i].name, first, std::min(first + 7, place.rows)};
    }
    const auto n_blocks = static_cast<std::uint64_t>((place.rows + 6) / 7);
    if (byte >= place.checksums_offset && byte < place.checksums_offset + 4 * n_blocks) {
      const auto block = static_cast<std::int64_t>(byte - place.checksums_offset) / 4;
      return {"crc32c/" + specs[i].name, block, block + 1};
    }
  }
  return {};
}

TEST(Verify, FindsNothingInASoundCache) {
  const ScratchFolder folder;
  write_cache(folder.path(), small_identity());
  EXPECT_TRUE(verify_cache(folder.path()).empty());
}

TEST(Verify, FindsEveryFlippedBitAndSaysWhere) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity);
  const Manifest manifest = read_manifest(folder.path(), identity);
  const RandomStream random(3, "test.flips");
  std::map<std::string, int> kinds;
  for (std::uint64_t i = 0; i < 10'000; ++i) {
    const auto unit = static_cast<std::int64_t>(random.below(2 * i, 5));
    const UnitRecord& record = manifest.units[unit];
    const std::uint64_t bit = random.below(2 * i + 1, record.bytes * 8);
    const Expectation expected = expect_damage(identity, record, bit / 8);
    flip_bit(shard_path(folder.path(), unit), bit);
    const std::vector<Damage> damage = verify_cache(folder.path());
    flip_bit(shard_path(folder.path(), unit), bit);
    ASSERT_EQ(damage.size(), 1U) << "bit " << bit << " of unit " << unit;
    EXPECT_EQ(damage[0].file, "shards/" + shard_file_name(unit));
    EXPECT_EQ(damage[0].dataset, expected.dataset) << "bit " << bit;
    EXPECT_EQ(damage[0].first_row, expected.first_row);
    EXPECT_EQ(damage[0].end_row, expected.end_row);
    ++kinds[expected.dataset.substr(0, expected.dataset.find('/'))];
  }
  for (const char* kind :
       {"activations", "contexts", "context", "position", "document", "crc32c", "metadata"}) {
    EXPECT_GT(kinds[kind], 0) << "no flip fell on " << kind;
  }
  EXPECT_TRUE(verify_cache(folder.path()).empty());
}

/// All rows of a cache as a training reads them.
std::vector<float> read_everything(const std::filesystem::path& dir) {
  const auto source = open_cache_source(dir);
  source->start({.batch_tokens = 24, .lanes = 2, .shuffle_window_tokens = 64, .seed = 5}, 0, 0, 2);
  EXPECT_EQ(source->n_dropped_rows_per_epoch(), 0) << "every row is to be read";
  std::vector<float> all;
  for (std::size_t hook = 0; hook < source->hook_points().size(); ++hook) {
    std::vector<float> rows(static_cast<std::size_t>(12 * source->hook_points()[hook].d_in));
    for (std::int64_t step = 0; step < source->steps_per_epoch(); ++step) {
      for (std::int64_t lane = 0; lane < 2; ++lane) {
        source->read(step, lane, hook, rows);
        all.insert(all.end(), rows.begin(), rows.end());
      }
    }
  }
  return all;
}

TEST(BitFlip, IsNeverReadAsARow) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity);
  const Manifest manifest = read_manifest(folder.path(), identity);
  const std::vector<float> expected = read_everything(folder.path());
  const RandomStream random(4, "test.flips");
  int n_refused = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const auto unit = static_cast<std::int64_t>(random.below(2 * i, 5));
    const std::uint64_t bit = random.below(2 * i + 1, manifest.units[unit].bytes * 8);
    const Expectation damage = expect_damage(identity, manifest.units[unit], bit / 8);
    flip_bit(shard_path(folder.path(), unit), bit);
    std::vector<float> rows;
    const std::string line =
        first_line_of<DataError>([&] { rows = read_everything(folder.path()); });
    flip_bit(shard_path(folder.path(), unit), bit);
    if (line == "no error") {
      ASSERT_EQ(rows, expected) << "bit " << bit << " of unit " << unit;
      ASSERT_FALSE(damage.dataset.starts_with("activations/")) << "bit " << bit;
      continue;
    }
    ++n_refused;
    EXPECT_TRUE(line.starts_with(shard_path(folder.path(), unit).string())) << line;
    if (damage.dataset.starts_with("activations/")) {
      const std::string where = damage.dataset + " rows " + std::to_string(damage.first_row) +
                                " to " + std::to_string(damage.end_row) + " are damaged";
      EXPECT_NE(line.find(where), std::string::npos) << line << " lacks " << where;
    }
  }
  EXPECT_GT(n_refused, 300);
}

TEST(BitFlip, InAManifestOrAnIdentityIsFound) {
  const ScratchFolder folder;
  write_cache(folder.path(), small_identity());
  const RandomStream random(5, "test.flips");
  for (const char* name : {"MANIFEST.json", "cache.json"}) {
    const std::filesystem::path path = folder / name;
    const Json whole = Json::parse(read_bytes(path), name);
    const std::uint64_t n_bits = thresher::file_size(path) * 8;
    for (std::uint64_t i = 0; i < 1000; ++i) {
      const std::uint64_t bit = random.below(i, n_bits);
      flip_bit(path, bit);
      const std::string line = first_line_of<DataError>([&] { verify_cache(folder.path()); });
      // A blank may turn into another one, and the checksum's own name into another, which say the
      // same of everything else.
      const bool is_harmless = line == "no error";
      if (is_harmless) {
        Json there = Json::parse(read_bytes(path), name);
        for (const auto& [key, value] : whole.as_object()) {
          if (key == "sha256") continue;
          ASSERT_EQ(there.at(key), value) << name << " bit " << bit;
        }
      } else {
        EXPECT_TRUE(line.starts_with(path.string())) << line;
      }
      flip_bit(path, bit);
    }
  }
}

TEST(BitFlip, InACommitLogLosesNoShard) {
  const ScratchFolder reference, folder;
  const CacheIdentity identity = small_identity();
  write_cache(reference.path(), identity);
  write_cache(folder.path(), identity, {0, 1, 2, 3});
  const std::filesystem::path log = folder / "commits/w000.log";
  const std::string bytes = read_bytes(log);
  const RandomStream random(6, "test.flips");
  for (std::uint64_t i = 0; i < 300; ++i) {
    std::filesystem::remove(log);
    append_bytes(log, bytes);
    flip_bit(log, random.below(i, bytes.size() * 8));
    ASSERT_TRUE(verify_cache(folder.path()).empty());
    const RecoveredCache recovered = recover_cache(folder.path(), identity);
    ASSERT_EQ(recovered.todo, (std::vector<std::int64_t>{4})) << "whole shards are adopted";
  }
  write_cache(folder.path(), identity, {4});
  EXPECT_EQ(promised_bytes(folder.path()), promised_bytes(reference.path()));
}

TEST(Verify, ReportsAMissingAndACutShard) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity);
  const std::uint64_t bytes = thresher::file_size(shard_path(folder.path(), 3));
  std::filesystem::remove(shard_path(folder.path(), 1));
  std::filesystem::resize_file(shard_path(folder.path(), 3), bytes - 1);
  const std::vector<Damage> damage = verify_cache(folder.path());
  ASSERT_EQ(damage.size(), 2U);
  EXPECT_EQ(damage[0].file, "shards/00000001.h5");
  EXPECT_EQ(damage[0].dataset, "metadata");
  EXPECT_EQ(damage[0].problem, "the file is missing");
  EXPECT_EQ(damage[1].file, "shards/00000003.h5");
  EXPECT_EQ(damage[1].problem,
            std::to_string(bytes - 1) + " bytes, " + std::to_string(bytes) + " are recorded");
}

TEST(Verify, ChecksTheCommittedUnitsOfAnUnfinishedCache) {
  const ScratchFolder folder;
  write_cache(folder.path(), small_identity(), {0, 2});
  EXPECT_TRUE(verify_cache(folder.path()).empty());
  flip_bit(shard_path(folder.path(), 2), 4);
  const std::vector<Damage> damage = verify_cache(folder.path());
  ASSERT_EQ(damage.size(), 1U);
  EXPECT_EQ(damage[0].file, "shards/00000002.h5");
  EXPECT_EQ(damage[0].dataset, "metadata");
}

}  // namespace
}  // namespace thresher::activation_cache
