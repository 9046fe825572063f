#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "activation_cache/cache.h"
#include "activation_cache/commit_log.h"
#include "activation_cache/manifest.h"
#include "activation_cache/publish.h"
#include "core/error.h"
#include "core/files.h"
#include "tests/activation_cache/cache_testing.h"

namespace thresher::activation_cache {
namespace {

using namespace testing;  // NOLINT: what the tests share

std::filesystem::path log_path(const ScratchFolder& folder) {
  return folder.path() / kCommitFolder / "w000.log";
}

TEST(CommitLog, GivesBackTheRecordsBeforeATornOne) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity, {0, 1, 2});
  const std::string whole = read_bytes(log_path(folder));
  const LogContent content = read_commit_log(log_path(folder), identity);
  ASSERT_EQ(content.units.size(), 3U);
  EXPECT_EQ(content.sound_bytes, whole.size());
  std::vector<std::uint64_t> ends;
  for (const LoggedUnit& unit : content.units) ends.push_back(unit.offset);
  ends.push_back(whole.size());
  for (std::size_t cut = 0; cut < whole.size(); cut += 97) {
    std::ofstream(log_path(folder), std::ios::binary | std::ios::trunc) << whole.substr(0, cut);
    const LogContent torn = read_commit_log(log_path(folder), identity);
    const auto n_whole = static_cast<std::size_t>(std::upper_bound(ends.begin(), ends.end(), cut) -
                                                  ends.begin() - 1);
    ASSERT_EQ(torn.units.size(), n_whole) << "cut at " << cut;
    ASSERT_EQ(torn.sound_bytes, ends[n_whole]);
  }
}

TEST(CommitLog, StopsAtAFlippedBit) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity, {0, 1, 2});
  const LogContent content = read_commit_log(log_path(folder), identity);
  for (const std::uint64_t at : {0U, 3U, 4U, 7U, 8U, 100U}) {
    flip_bit(log_path(folder), (content.units[1].offset + at) * 8 + 1);
    EXPECT_EQ(read_commit_log(log_path(folder), identity).units.size(), 1U) << "byte " << at;
    flip_bit(log_path(folder), (content.units[1].offset + at) * 8 + 1);
  }
  EXPECT_EQ(read_commit_log(log_path(folder), identity).units.size(), 3U);
}

TEST(Recovery, CutsATornRecordAndAdoptsItsShard) {
  const ScratchFolder reference, folder;
  const CacheIdentity identity = small_identity();
  write_cache(reference.path(), identity);
  write_cache(folder.path(), identity, {0, 1, 2});
  const std::uint64_t bytes = thresher::file_size(log_path(folder));
  std::filesystem::resize_file(log_path(folder), bytes - 10);
  const RecoveredCache recovered = recover_cache(folder.path(), identity);
  EXPECT_EQ(recovered.todo, (std::vector<std::int64_t>{3, 4}));
  EXPECT_EQ(read_commit_log(log_path(folder), identity).units.size(), 3U);
  write_cache(folder.path(), identity, recovered.todo);
  EXPECT_EQ(promised_bytes(folder.path()), promised_bytes(reference.path()));
}

TEST(Recovery, DeletesAnUnrecordedShardThatIsDamaged) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity, {0, 1});
  std::filesystem::remove(log_path(folder));
  flip_bit(shard_path(folder.path(), 1), 8 * 6000);
  const RecoveredCache recovered = recover_cache(folder.path(), identity);
  EXPECT_EQ(recovered.todo, (std::vector<std::int64_t>{1, 2, 3, 4}));
  EXPECT_FALSE(std::filesystem::exists(shard_path(folder.path(), 1)));
}

TEST(Recovery, DeletesAnUnrecordedShardThatIsCutShort) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity, {0});
  const std::uint64_t bytes = thresher::file_size(shard_path(folder.path(), 0));
  for (const std::uint64_t cut : {std::uint64_t{0}, std::uint64_t{40}, bytes / 2, bytes - 1}) {
    write_cache(folder.path(), identity, {0});
    std::filesystem::remove(log_path(folder));
    std::filesystem::resize_file(shard_path(folder.path(), 0), cut);
    EXPECT_EQ(recover_cache(folder.path(), identity).todo.size(), 5U) << "cut at " << cut;
    EXPECT_FALSE(std::filesystem::exists(shard_path(folder.path(), 0)));
  }
}

TEST(Recovery, PutsMissingAndWrongSizedShardsBackToWork) {
  const ScratchFolder reference, folder;
  const CacheIdentity identity = small_identity();
  write_cache(reference.path(), identity);
  write_cache(folder.path(), identity, {0, 1, 2, 3});
  std::filesystem::remove(shard_path(folder.path(), 0));
  append_bytes(shard_path(folder.path(), 2), "x");
  const RecoveredCache recovered = recover_cache(folder.path(), identity);
  EXPECT_EQ(recovered.todo, (std::vector<std::int64_t>{0, 2, 4}));
  write_cache(folder.path(), identity, recovered.todo);
  EXPECT_EQ(promised_bytes(folder.path()), promised_bytes(reference.path()));
}

TEST(Recovery, EmptiesTheTemporaryFolder) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity, {0});
  append_bytes(folder.path() / kTemporaryFolder / "00000001.host.1.0.h5", "half");
  recover_cache(folder.path(), identity);
  EXPECT_TRUE(list_folder(folder.path() / kTemporaryFolder).empty());
}

TEST(Recovery, LeavesFilesThatAreNoShardsOfThisCache) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity, {0});
  append_bytes(folder.path() / kShardFolder / "notes.txt", "mine");
  append_bytes(folder.path() / kShardFolder / "00000099.h5", "of a larger cache");
  EXPECT_EQ(recover_cache(folder.path(), identity).todo.size(), 4U);
  EXPECT_EQ(read_bytes(folder.path() / kShardFolder / "notes.txt"), "mine");
}

// THRESHER_UNITS sets how many units (default 300); the time it takes is printed.
TEST(Recovery, DecidesFromTheLogsAloneWithoutOpeningAShard) {
  const char* setting = std::getenv("THRESHER_UNITS");
  const std::int64_t n_units = setting == nullptr ? 300 : std::atoi(setting);
  const ScratchFolder folder;
  CacheIdentity identity = small_identity();
  identity.hook_points = {{"blocks.0.hook_resid_post", 576}};
  identity.n_contexts = 8 * n_units;
  write_cache(folder.path(), identity, {0});
  const LoggedUnit first = read_commit_log(log_path(folder), identity).units.at(0);
  UnitRecord record = read_logged_unit(first, identity);
  std::vector<std::int64_t> missing;
  {
    CommitLog log(folder.path(), 0);
    for (record.unit = 1; record.unit < n_units; ++record.unit) {
      if (record.unit % 10 == 3) {
        missing.push_back(record.unit);
        continue;
      }
      log.append(record, identity);
      // Of the right size and with nothing in it: whoever opened one would find it damaged.
      const std::filesystem::path shard = shard_path(folder.path(), record.unit);
      create_file(shard);
      std::filesystem::resize_file(shard, record.bytes);
    }
  }
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(recover_cache(folder.path(), identity).todo, missing);
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
  std::printf("%ld units, %zu left, decided in %.2f s\n", n_units, missing.size(), passed.count());
}

TEST(Publish, AdoptsAnEqualShardThatIsAlreadyThere) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity, {0});
  CommitLog log(folder.path(), 1);
  const UnitContent owner = unit_content(identity, 0);
  publish_unit(folder.path(), identity, owner.content, 1, log);
  EXPECT_TRUE(list_folder(folder.path() / kTemporaryFolder).empty());
  flip_bit(shard_path(folder.path(), 0), 8000);
  EXPECT_EQ(
      first_line_of<IoError>([&] { publish_unit(folder.path(), identity, owner.content, 1, log); }),
      shard_path(folder.path(), 0).string() + ": the shard exists with other content");
}

TEST(Publish, RefusesARecordThatDoesNotFitTheIdentity) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity, {0, 4});
  CacheIdentity shorter = identity;
  shorter.n_contexts = 24;
  EXPECT_EQ(first_line_of<DataError>([&] {
              read_committed_units(folder.path(), shorter);
            }).substr(log_path(folder).string().size()),
            " at byte " +
                std::to_string(read_commit_log(log_path(folder), identity).units[1].offset) +
                ": unit 4 of 3");
}

TEST(Complete, MeansThatTheManifestIsThere) {
  const ScratchFolder folder;
  const CacheIdentity identity = small_identity();
  write_cache(folder.path(), identity, {0, 1, 2, 3});
  EXPECT_FALSE(is_cache_complete(folder.path()));
  EXPECT_EQ(first_line_of<DataError>([&] { open_cache_source(folder.path()); }),
            folder.path().string() + ": the cache is not complete");
  write_cache(folder.path(), identity, {4});
  EXPECT_TRUE(is_cache_complete(folder.path()));
  EXPECT_EQ(open_cache_source(folder.path())->statistics(0).n_rows, 600);
}

}  // namespace
}  // namespace thresher::activation_cache
