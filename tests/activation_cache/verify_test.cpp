#include <gtest/gtest.h>

#include "activation_cache/cache.h"
#include "activation_cache/manifest.h"
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
  for (std::uint64_t i = 0; i < 400; ++i) {
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
