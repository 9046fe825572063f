// Every file call of a training fails once, in turn; and the power goes off in between any two.
// THRESHER_POWER_CUTS sets how many random moments (default 60), THRESHER_FAULT_STRIDE after how
// many calls the next one is tried (default 11; 1: every one).
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "core/error.h"
#include "core/file_calls.h"
#include "core/files.h"
#include "tests/core/power_loss.h"
#include "trainer/checkpoint.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

using thresher::testing::PowerLossRecord;

constexpr int kIoExit = static_cast<int>(ExitCode::kIo);

int setting_of(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

/// Checkpoints after steps 3, 6, 9 and 10.
TrainJob short_job(const std::filesystem::path& run_dir) {
  TrainJob job = tiny_job(run_dir, 10);
  job.config.checkpoint_every_tokens = 64 * 3;
  job.config.log_every_steps = 4;
  return job;
}

int train_in_child(const TrainJob& job, const std::string& failpoint = "") {
  ChildProcess child([&] {
    if (!failpoint.empty()) setenv("THRESHER_FAILPOINT", failpoint.c_str(), 1);
    try {
      train_on_threads(job);
    } catch (const IoError& error) {
      _exit(static_cast<int>(error.code()));  // many tests ask for these
    }
  });
  return child.wait();
}

void expect_valid_checkpoints(const std::filesystem::path& run_dir, const std::string& when) {
  if (!std::filesystem::exists(run_dir / "ckpt")) return;
  for (const CheckpointEntry& entry : list_checkpoints(run_dir)) {
    EXPECT_EQ(first_line_of([&] { verify_checkpoint(entry.folder); }), "no error") << when;
  }
}

class TrainingFault : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(train_in_child(short_job(folder / "whole")), 0); }
  /// How a training ends in which the fault happens; its checkpoints are sound then, and a second
  /// run completes it.
  int end_with(const std::string& setting) {
    const std::filesystem::path run_dir = folder / "run";
    const int end = train_in_child(short_job(run_dir), setting);
    expect_valid_checkpoints(run_dir, setting);
    EXPECT_EQ(train_in_child(short_job(run_dir)), 0) << setting;
    EXPECT_EQ(differing_files(folder / "whole", run_dir), "") << setting;
    std::filesystem::remove_all(run_dir);
    return end;
  }
  /// Tries the calls in turn with what `setting` ("file.*=EIO") says; one entry a try.
  std::vector<int> ends_with(const std::string& setting) {
    const std::string names = setting.substr(0, setting.find_first_of("+="));
    const int n = n_calls(names);
    std::vector<int> ends;
    for (int k = 1; k <= n && !HasFailure(); k += stride) {
      ends.push_back(end_with(names + ":" + std::to_string(k) + setting.substr(names.size())));
    }
    return ends;
  }

  TemporaryFolder folder;
  const int stride = setting_of("THRESHER_FAULT_STRIDE", 11);

 private:
  /// Calls of a whole training: it is killed before the last one, and not before one more.
  int n_calls(const std::string& names) {
    const auto is_killed_at = [&](int k) {
      const int end =
          train_in_child(short_job(folder / "counted"), names + ":" + std::to_string(k));
      std::filesystem::remove_all(folder / "counted");
      return end != 0;
    };
    int last = 0, beyond = 64;
    while (is_killed_at(beyond)) last = std::exchange(beyond, 2 * beyond);
    while (beyond - last > 1) {
      const int middle = (last + beyond) / 2;
      (is_killed_at(middle) ? last : beyond) = middle;
    }
    return last;
  }
};

TEST_F(TrainingFault, AKillBeforeAnyFileCallCostsNothing) {
  const std::vector<int> ends = ends_with("file.*");
  EXPECT_GE(ends.size() * stride, 100) << "four checkpoints alone make more calls";
  EXPECT_EQ(std::count(ends.begin(), ends.end(), 128 + SIGKILL), ends.size());
  std::printf("%zu kills\n", ends.size());
}

class FailedCall : public TrainingFault, public ::testing::WithParamInterface<const char*> {};

TEST_P(FailedCall, EndsTheRunWith74AndSoundCheckpoints) {
  const std::vector<int> ends = ends_with(GetParam());
  const auto n_failed = std::count(ends.begin(), ends.end(), kIoExit);
  // What is only cleared away, or tells how the run stands, does not end it.
  EXPECT_EQ(n_failed + std::count(ends.begin(), ends.end(), 0), ends.size());
  EXPECT_GE(n_failed, ends.size() * 2 / 3);
  std::printf("%zd of %zu tried calls end the run\n", n_failed, ends.size());
}
INSTANTIATE_TEST_SUITE_P(
    All, FailedCall, ::testing::Values("file.*=EIO", "file.*+=ENOSPC", "read.*=EIO"),
    [](const auto& test) {
      return std::string(test.index == 0 ? "Once" : test.index == 1 ? "FromThenOn" : "Reading");
    });

TEST_F(TrainingFault, InterruptedAndShortCallsAreNotNoticed) {
  for (const char* setting : {"file.*=EINTR", "file.write=short", "read.data=short"}) {
    for (const int end : ends_with(setting)) EXPECT_EQ(end, 0) << setting;
  }
}

/// The step of the newest checkpoint whose name was synced by operation `cut`; 0 without one.
std::int64_t acknowledged(const PowerLossRecord& record, std::size_t cut) {
  std::int64_t named = 0, synced = 0;
  for (const PowerLossRecord::Event& event : record.events()) {
    if (event.end > cut) break;
    if (event.call == "file.rename" && event.to.starts_with("ckpt/step-")) {
      named = std::stoll(event.to.substr(10));
    }
    if (event.call == "file.fsync" && event.path == "ckpt") synced = named;
  }
  return synced;
}

std::int64_t newest_valid(const std::filesystem::path& run_dir) {
  std::int64_t step = 0;
  if (!std::filesystem::exists(run_dir / "ckpt")) return step;
  for (const CheckpointEntry& entry : list_checkpoints(run_dir)) {
    if (first_line_of([&] { verify_checkpoint(entry.folder); }) == "no error") step = entry.step;
  }
  return step;
}

// In this process: nothing is killed here.
class TrainingPowerLoss : public ::testing::TestWithParam<bool> {};

TEST_P(TrainingPowerLoss, TheNewestSyncedCheckpointLoadsAndTheRunEndsTheSame) {
  const int n_cuts = setting_of("THRESHER_POWER_CUTS", 60);
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "run");
  PowerLossRecord record(folder / "run");
  TrainJob recorded = short_job(folder / "run");
  recorded.config.background_checkpoints = GetParam();
  train_on_threads(recorded);
  file_calls::observe({});
  const std::size_t n_operations = record.n_operations();
  ASSERT_EQ(acknowledged(record, n_operations), 10);

  const RandomStream random(8, "test.power_cuts");
  for (int i = 0; i < n_cuts && !::testing::Test::HasFailure(); ++i) {
    const auto draw = static_cast<std::uint64_t>(2 * i);
    const std::size_t cut = random.below(draw, n_operations + 1);
    const auto unsynced =
        i % 2 == 0 ? PowerLossRecord::Unsynced::kLost : PowerLossRecord::Unsynced::kSomeKept;
    const auto disk = folder / "disk";
    record.restore(cut, unsynced, RandomStream(draw, "test.power_loss"), disk);
    EXPECT_GE(newest_valid(disk), acknowledged(record, cut)) << "cut " << cut;
    train_on_threads(short_job(disk), 1 + i % 2);
    EXPECT_EQ(differing_files(folder / "run", disk), "") << "cut " << cut;
    std::filesystem::remove_all(disk);
  }
  std::printf("%d cuts in %zu operations\n", n_cuts, n_operations);
}
INSTANTIATE_TEST_SUITE_P(All, TrainingPowerLoss, ::testing::Bool(), [](const auto& test) {
  return std::string(test.param ? "WrittenInTheBackground" : "WrittenBetweenSteps");
});

}  // namespace
}  // namespace thresher::trainer
