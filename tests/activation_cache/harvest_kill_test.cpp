#include <gtest/gtest.h>

#include <cstdio>

#include "tests/activation_cache/harvest_testing.h"
#include "tests/activation_cache/kill_testing.h"

namespace thresher::activation_cache {
namespace {

using namespace testing;  // NOLINT: what the tests share

/// Reached once in a harvest, and so not a second time.
bool happens_once(const std::string& failpoint) {
  for (const char* once : {failpoints::kIdentityWritten, failpoints::kTemporaryDeleted,
                           failpoints::kAllCommitted, failpoints::kManifestWritten}) {
    if (failpoint == once) return true;
  }
  return false;
}

TEST(HarvestKill, AtEveryCrashPointLosesNothing) {
  const ScratchFolder reference;
  ASSERT_EQ(harvest_in_child(reference.path(), 1), 0);
  const auto expected = promised_bytes(reference.path());
  for (const char* failpoint : failpoints::kAll) {
    if (failpoint == failpoints::kShardAdopted) continue;  // needs a crash before it: below
    for (const int count : {1, 4}) {
      if (count > 1 && happens_once(failpoint)) continue;
      const ScratchFolder folder;
      const std::string setting = std::string(failpoint) + ":" + std::to_string(count);
      ASSERT_EQ(harvest_in_child(folder.path(), count == 1 ? 1 : 2, setting), kKilled) << setting;
      ASSERT_EQ(harvest_in_child(folder.path(), 3), 0) << setting;
      ASSERT_EQ(promised_bytes(folder.path()), expected) << setting;
      ASSERT_TRUE(verify_cache(folder.path()).empty()) << setting;
    }
  }
}

TEST(HarvestKill, DuringRecoveryLosesNothing) {
  const ScratchFolder reference, folder;
  ASSERT_EQ(harvest_in_child(reference.path(), 1), 0);
  for (const char* first : {failpoints::kShardRenamed, failpoints::kShardFolderSynced}) {
    const ScratchFolder cache;
    ASSERT_EQ(harvest_in_child(cache.path(), 1, std::string(first) + ":3"), kKilled);
    ASSERT_EQ(harvest_in_child(cache.path(), 2, std::string(failpoints::kTemporaryDeleted) + ":1"),
              kKilled);
    ASSERT_EQ(harvest_in_child(cache.path(), 2, std::string(failpoints::kShardAdopted) + ":1"),
              kKilled);
    ASSERT_EQ(harvest_in_child(cache.path(), 4), 0);
    EXPECT_EQ(promised_bytes(cache.path()), promised_bytes(reference.path()));
  }
}

TEST(HarvestKill, AtRandomMomentsLosesNothing) { check_random_kills(40, 1); }

TEST(HarvestKill, BeforeAnyFileCallLosesNothing) {
  const ScratchFolder reference;
  ASSERT_EQ(harvest_in_child(small_setup(reference.path())), 0);
  const auto expected = promised_bytes(reference.path());
  int n_killed = 0;
  for (int end = kKilled; end == kKilled;) {
    const ScratchFolder folder;
    const std::string setting = "file.*:" + std::to_string(n_killed + 1);
    end = harvest_in_child(small_setup(folder.path()), setting);
    ASSERT_TRUE(end == 0 || end == kKilled) << setting << " ended with " << end;
    if (end == kKilled) ++n_killed;
    ASSERT_EQ(harvest_in_child(small_setup(folder.path(), 1 + n_killed % 3)), 0) << setting;
    ASSERT_EQ(promised_bytes(folder.path()), expected) << setting;
    ASSERT_TRUE(verify_cache(folder.path()).empty()) << setting;
  }
  EXPECT_GE(n_killed, 60) << "three units alone make more calls";
  std::printf("%d kills\n", n_killed);
}

}  // namespace
}  // namespace thresher::activation_cache
