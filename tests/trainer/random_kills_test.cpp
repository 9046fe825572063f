// Kills at random moments, on changing numbers of ranks: the bytes are those of a run that was
// never killed.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>

#include "core/random.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kSteps = 150;

TrainJob killable_job(const std::filesystem::path& run_dir) {
  TrainJob job = tiny_job(run_dir, kSteps);
  job.config.checkpoint_every_tokens = 64 * 7;
  return job;
}

TEST(RandomKillsTest, CostNothing) {
  const int kills = 12;
  const TemporaryFolder folder;
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(ChildProcess([&] { train_on_threads(killable_job(folder / "whole")); }).wait(), 0);
  const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - begin;

  const RandomStream random(3, "kills");
  int done = 0;
  for (int run = 0; done < kills; ++run) {
    const auto run_dir = folder / ("run" + std::to_string(run));
    bool is_complete = false;
    while (!is_complete) {
      const int ranks = 1 << random.below(static_cast<std::uint64_t>(2 * done), 3);
      ChildProcess child([&] { train_on_threads(killable_job(run_dir), ranks); });
      if (done < kills) {
        const double delay = random.uniform(static_cast<std::uint64_t>(2 * done + 1)) * 0.6;
        // On a busy machine the first run may have been the slow one: a child that has ended is not
        // waited for.
        const auto due = std::chrono::steady_clock::now() + whole * delay;
        while (child.is_running() && std::chrono::steady_clock::now() < due) {
          std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
        if (child.is_running()) {
          child.kill(SIGKILL);
          ++done;
        }
      }
      const int code = child.wait();
      ASSERT_TRUE(code == 0 || code == 128 + SIGKILL) << code;
      is_complete = code == 0;
    }
    ASSERT_EQ(differing_files(folder / "whole", run_dir), "") << "run " << run;
    std::filesystem::remove_all(run_dir);
  }
  EXPECT_EQ(done, kills);
}

}  // namespace
}  // namespace thresher::trainer
