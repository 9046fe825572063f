// Every file call of a harvest fails once, in turn; and the power goes off in between any two.
// THRESHER_POWER_CUTS sets how many random moments (default 120).
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "activation_cache/commit_log.h"
#include "core/error.h"
#include "core/file_calls.h"
#include "core/log.h"
#include "tests/activation_cache/harvest_testing.h"
#include "tests/activation_cache/kill_testing.h"
#include "tests/core/power_loss.h"

namespace thresher::activation_cache {
namespace {

using namespace testing;  // NOLINT: what the tests share
using thresher::testing::PowerLossRecord;

constexpr int kIoExit = static_cast<int>(ExitCode::kIo);

class HarvestFault : public ::testing::Test {
 protected:
  void SetUp() override {
    const ScratchFolder reference;
    ASSERT_EQ(harvest_in_child(small_setup(reference.path())), 0);
    expected = promised_bytes(reference.path());
  }
  /// How a small harvest ends in which the fault happens, after which the cache is sound and a
  /// second run completes it.
  int end_with(const std::string& setting, int ranks = 1) {
    const ScratchFolder folder;
    const int end = harvest_in_child(small_setup(folder.path(), ranks), setting);
    if (std::filesystem::exists(folder / "cache.json")) {
      EXPECT_TRUE(verify_cache(folder.path()).empty()) << setting;
    }
    EXPECT_EQ(harvest_in_child(small_setup(folder.path())), 0) << setting;
    EXPECT_EQ(promised_bytes(folder.path()), expected) << setting;
    return end;
  }
  /// Calls of a whole harvest: it is killed before the last one, and not before one more.
  static int n_calls(const std::string& names) {
    const auto is_killed_at = [&](int k) {
      const ScratchFolder folder;
      return harvest_in_child(small_setup(folder.path()), names + ":" + std::to_string(k)) != 0;
    };
    int last = 0, beyond = 64;
    while (is_killed_at(beyond)) last = std::exchange(beyond, 2 * beyond);
    while (beyond - last > 1) {
      const int middle = (last + beyond) / 2;
      (is_killed_at(middle) ? last : beyond) = middle;
    }
    return last;
  }

  std::map<std::string, std::string> expected;
};

class FailedCall : public HarvestFault, public ::testing::WithParamInterface<const char*> {};

TEST_P(FailedCall, EndsTheHarvestWith74AndASoundCache) {
  const std::string setting = GetParam();
  const std::string names = setting.substr(0, setting.find_first_of("+="));
  const std::string action = setting.substr(names.size());
  const int n = n_calls(names);
  int n_failed = 0;
  for (int k = 1; k <= n && !HasFailure(); ++k) {
    const int end = end_with(names + ":" + std::to_string(k) + action);
    // A temporary file that cannot be removed and a lock record that cannot be wiped harm nobody.
    EXPECT_TRUE(end == kIoExit || end == 0) << "call " << k << " ended with " << end;
    n_failed += end == kIoExit;
  }
  EXPECT_GE(n_failed, n - 5) << "of " << n;
  std::printf("%d of %d calls end the harvest\n", n_failed, n);
}
INSTANTIATE_TEST_SUITE_P(
    All, FailedCall, ::testing::Values("file.*=EIO", "file.*+=ENOSPC", "read.*=EIO"),
    [](const auto& test) {
      return std::string(test.index == 0 ? "Once" : test.index == 1 ? "FromThenOn" : "Reading");
    });

class Hiccup : public HarvestFault, public ::testing::WithParamInterface<const char*> {};

TEST_P(Hiccup, IsNotNoticed) {
  const std::string setting = GetParam();
  const std::string names = setting.substr(0, setting.find('='));
  const int n = n_calls(names);
  for (int k = 1; k <= n && !HasFailure(); ++k) {
    EXPECT_EQ(end_with(names + ":" + std::to_string(k) + setting.substr(names.size())), 0) << k;
  }
}
INSTANTIATE_TEST_SUITE_P(All, Hiccup,
                         ::testing::Values("file.*=EINTR", "file.write=short", "read.data=short"),
                         [](const auto& test) {
                           return std::string(test.index == 0   ? "Interrupted"
                                              : test.index == 1 ? "ShortWrite"
                                                                : "ShortRead");
                         });

TEST_F(HarvestFault, OfOneRankEndsAllRanks) {
  for (const int k : {12, 20, 31, 47}) {
    EXPECT_EQ(end_with("file.*:" + std::to_string(k) + "=EIO", 3), kIoExit) << k;
  }
}

/// Commit records that were synced by operation `cut`.
int acknowledged(const PowerLossRecord& record, std::size_t cut) {
  int n = 0;
  for (const PowerLossRecord::Event& event : record.events()) {
    n += event.end <= cut && event.call == "file.fsync" && event.path.starts_with("commits/");
  }
  return n;
}

TEST(HarvestPowerLoss, LosesNoCommittedUnitAndAcceptsNoTornOne) {
  const char* setting = std::getenv("THRESHER_POWER_CUTS");
  const int n_cuts = setting == nullptr ? 120 : std::atoi(setting);
  set_log_level(LogLevel::kError);
  const ScratchFolder folder;
  PowerLossRecord record(folder.path());
  // Stopped in the middle and started again, so that a recovery is in the record.
  HarvestSetup stopped = small_setup(folder.path());
  stopped.prepare_host = [](FakeHost& host, int) {
    host.before_pass = [](int pass) {
      if (pass == 1) throw IoError("stopped");
    };
  };
  EXPECT_THROW(run_harvest(stopped), IoError);
  run_harvest(small_setup(folder.path()));
  const std::size_t n_operations = record.n_operations();
  file_calls::observe({});
  const auto expected = promised_bytes(folder.path());
  ASSERT_EQ(acknowledged(record, n_operations), 3);

  const RandomStream random(6, "test.power_cuts");
  for (int i = 0; i < n_cuts && !::testing::Test::HasFailure(); ++i) {
    const auto draw = static_cast<std::uint64_t>(2 * i);
    const std::size_t cut = random.below(draw, n_operations + 1);
    const auto unsynced =
        i % 2 == 0 ? PowerLossRecord::Unsynced::kLost : PowerLossRecord::Unsynced::kSomeKept;
    const ScratchFolder disk;
    record.restore(cut, unsynced, RandomStream(draw, "test.power_loss"), disk.path());
    std::size_t n_committed = 0;
    if (std::filesystem::exists(disk / "cache.json")) {
      n_committed = read_committed_units(disk.path(), read_identity(disk.path())).size();
      EXPECT_TRUE(verify_cache(disk.path()).empty()) << "cut " << cut;
    }
    EXPECT_GE(n_committed, acknowledged(record, cut)) << "cut " << cut;
    run_harvest(small_setup(disk.path(), 1 + i % 3));
    EXPECT_EQ(promised_bytes(disk.path()), expected) << "cut " << cut;
  }
  std::printf("%d cuts in %zu operations\n", n_cuts, n_operations);
}

}  // namespace
}  // namespace thresher::activation_cache
