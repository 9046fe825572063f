// Runs that end early, however they end, and are started again leave the bytes of a run that never
// stopped. Every training happens in a forked process, so that it can be killed.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <fstream>
#include <thread>

#include "core/error.h"
#include "core/files.h"
#include "core/stop_signal.h"
#include "trainer/checkpoint.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kSteps = 40;

int train_in_child(const TrainJob& job, int ranks = 1, const std::string& failpoint = "") {
  ChildProcess child([&] {
    if (!failpoint.empty()) setenv("THRESHER_FAILPOINT", failpoint.c_str(), 1);
    train_on_threads(job, ranks);
  });
  return child.wait();
}

class ResumeTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(train_in_child(tiny_job(folder / "whole", kSteps)), 0); }
  TrainJob job() const { return tiny_job(folder / "run", kSteps); }
  std::string difference() const { return differing_files(folder / "whole", folder / "run"); }

  TemporaryFolder folder;
};

class FailpointTest : public ResumeTest, public testing::WithParamInterface<const char*> {};

TEST_P(FailpointTest, AKillThereCostsNothing) {
  ASSERT_EQ(train_in_child(job(), 1, GetParam()), 128 + SIGKILL);
  EXPECT_EQ(train_in_child(job()), 0);
  EXPECT_EQ(difference(), "");
}
INSTANTIATE_TEST_SUITE_P(All, FailpointTest,
                         testing::Values("train.step:1", "train.step:25", "train.metrics_synced:1",
                                         "train.metrics_synced:3", "checkpoint.begun:1",
                                         "checkpoint.begun:3", "checkpoint.model_written:2",
                                         "checkpoint.optimiser_written:2",
                                         "checkpoint.state_written:2", "checkpoint.committed:1",
                                         "checkpoint.committed:3", "checkpoint.renamed:1",
                                         "checkpoint.renamed:4", "checkpoint.removal_named:1",
                                         "train.export:1", "train.export:2"),
                         [](const auto& point) {
                           std::string name = point.param;
                           for (char& c : name) c = c == '.' || c == ':' ? '_' : c;
                           return name;
                         });

class RichResumeTest : public testing::TestWithParam<const char*> {};

TEST_P(RichResumeTest, AKillThereCostsNothingOnAnyNumberOfRanks) {
  const TemporaryFolder folder;
  ASSERT_EQ(train_in_child(rich_job(folder / "whole", kSteps)), 0);
  // The run under test resamples, or it would not test much.
  const std::string metrics = read_text_file(folder / "whole/metrics.jsonl");
  ASSERT_NE(metrics.find("\"step\":15,\"tokens\":960"), std::string::npos);
  std::size_t n_resampling_lines = 0;
  for (std::size_t at = metrics.find("resampled_latents\":"); at != std::string::npos;
       at = metrics.find("resampled_latents\":", at + 1)) {
    n_resampling_lines += metrics[at + std::string("resampled_latents\":").size()] != '0';
  }
  ASSERT_GE(n_resampling_lines, 3U);

  ASSERT_EQ(train_in_child(rich_job(folder / "run", kSteps), 2, GetParam()), 128 + SIGKILL);
  EXPECT_EQ(train_in_child(rich_job(folder / "run", kSteps), 4, "train.step:14"), 128 + SIGKILL);
  EXPECT_EQ(train_in_child(rich_job(folder / "run", kSteps)), 0);
  EXPECT_EQ(differing_files(folder / "whole", folder / "run"), "");
}
INSTANTIATE_TEST_SUITE_P(All, RichResumeTest,
                         testing::Values("train.step:12", "checkpoint.model_written:2"),
                         [](const auto& point) {
                           return std::string(point.index == 0 ? "AfterAStep" : "InACheckpoint");
                         });

TEST_F(ResumeTest, KilledOnTwoRanksContinuesOnFourThenOne) {
  ASSERT_EQ(train_in_child(job(), 2, "train.step:25"), 128 + SIGKILL);
  ASSERT_EQ(train_in_child(job(), 4, "checkpoint.committed:1"), 128 + SIGKILL);
  EXPECT_EQ(train_in_child(job(), 1), 0);
  EXPECT_EQ(difference(), "");
}

TEST_F(ResumeTest, ADamagedNewestCheckpointFallsBackToTheOneBefore) {
  ASSERT_EQ(train_in_child(job(), 1, "train.step:35"), 128 + SIGKILL);
  const auto newest = list_checkpoints(job().run_dir).back();
  ASSERT_EQ(newest.step, 30);
  std::fstream file(newest.folder / "model.safetensors", std::ios::in | std::ios::out);
  file.seekp(1000);
  file.put('!');
  file.close();
  EXPECT_EQ(train_in_child(job()), 0);
  EXPECT_TRUE(std::filesystem::exists(job().run_dir / "ckpt/damaged-step-00000030"));
  std::filesystem::remove_all(job().run_dir / "ckpt/damaged-step-00000030");
  EXPECT_EQ(difference(), "");
}

TEST_F(ResumeTest, OnlyDamagedCheckpointsAreAnErrorWithEveryReason) {
  ASSERT_EQ(train_in_child(job(), 1, "train.step:25"), 128 + SIGKILL);
  const auto ckpt = job().run_dir / "ckpt";
  std::filesystem::remove(ckpt / "step-00000010/optim.safetensors");
  std::filesystem::resize_file(ckpt / "step-00000020/state.json", 10);
  const auto size = Json::parse(read_text_file(ckpt / "step-00000020/COMMIT"), "COMMIT")
                        .at("files")
                        .as_array()[2]
                        .at("bytes")
                        .as_int();
  ChildProcess child([&] {
    const std::string line = first_line_of([&] { train_on_threads(job()); });
    const std::string expected =
        job().run_dir.string() +
        ": none of 2 checkpoints is valid: " + (ckpt / "step-00000020/state.json").string() +
        ": 10 bytes, COMMIT says " + std::to_string(size) + "; " +
        (ckpt / "step-00000010/optim.safetensors").string() + ": the file is missing";
    if (line != expected) throw std::runtime_error(line + "\nbut expected\n" + expected);
    train_on_threads(job());
  });
  EXPECT_EQ(child.wait(), 65);
  EXPECT_TRUE(std::filesystem::exists(ckpt / "step-00000020")) << "nothing is moved then";
}

TEST_F(ResumeTest, AnotherConfigurationIsRefusedAtItsFirstDifference) {
  ASSERT_EQ(train_in_child(job(), 1, "train.step:25"), 128 + SIGKILL);
  ChildProcess child([&] {
    TrainJob other = job();
    other.config.learning_rate = 0.5;
    const std::string line = first_line_of([&] { train_on_threads(other); });
    const std::string expected = (other.run_dir / "ckpt/step-00000020").string() +
                                 ": was made with another configuration: train.learning_rate: "
                                 "0.003, 0.5";
    if (line != expected) throw std::runtime_error(line + "\nbut expected\n" + expected);
    train_on_threads(other);
  });
  EXPECT_EQ(child.wait(), 78);
  EXPECT_EQ(train_in_child(job()), 0) << "the refusal harmed nothing";
  EXPECT_EQ(difference(), "");
}

TEST_F(ResumeTest, WhatDoesNotDecideNumbersMayChange) {
  ASSERT_EQ(train_in_child(job(), 1, "train.step:25"), 128 + SIGKILL);
  TrainJob other = job();
  other.config.keep_checkpoints = 5;
  other.config.checkpoint_every_tokens = 64 * 5;
  other.resolved_config = Json::object({{"run", Json::object({{"name", "renamed"}})}});
  EXPECT_EQ(train_in_child(other), 0);
  const auto whole = promised_bytes(folder / "whole"), run = promised_bytes(folder / "run");
  for (const auto& [name, bytes] : whole) {
    if (name.starts_with("sae/") || name == "metrics.jsonl") {
      EXPECT_EQ(run.at(name), bytes) << name;
    }
  }
  EXPECT_EQ(list_checkpoints(other.run_dir).size(), 5U);
}

TEST_F(ResumeTest, AFinishedRunIsNotTouched) {
  const auto written = std::filesystem::last_write_time(folder / "whole/sae/topk/cfg.json");
  ChildProcess child([&] {
    activation_cache::SyntheticSource source(tiny_world());
    const TrainResult result =
        train(tiny_job(folder / "whole", kSteps), source, *comm::make_self_communicator());
    if (!result.was_complete || result.steps != kSteps) throw std::runtime_error("trained again");
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(std::filesystem::last_write_time(folder / "whole/sae/topk/cfg.json"), written);
}

TEST_F(ResumeTest, FreshStartsOverAndKeepsTheOld) {
  ASSERT_EQ(train_in_child(job(), 1, "train.step:25"), 128 + SIGKILL);
  TrainJob fresh = job();
  fresh.fresh = true;
  EXPECT_EQ(train_in_child(fresh), 0);
  EXPECT_EQ(difference(), "");
  EXPECT_EQ(list_checkpoints(folder / "run.old-1").size(), 2U);
}

TEST(ThreadsTest, TwoThreadsInProductsLeaveTheBytesOfOne) {
  const TemporaryFolder folder;
  for (const int threads : {1, 2}) {
    ChildProcess child([&] {
      TrainJob job = tiny_job(folder / std::to_string(threads), 4);
      job.config.batch_tokens = 1024;
      job.config.total_tokens = 4 * 1024;
      job.config.checkpoint_every_tokens = 0;
      for (const auto& sae : job.saes) sae->n_latents = 512;
      train_with_product_threads(job, threads);
    });
    ASSERT_EQ(child.wait(), 0);
  }
  EXPECT_EQ(differing_files(folder / "1", folder / "2"), "");
}

class StopTest : public ResumeTest, public testing::WithParamInterface<std::pair<int, int>> {};

TEST_P(StopTest, SavesEndsWith75AndContinues) {
  const auto [signal, ranks] = GetParam();
  TrainJob long_job = tiny_job(folder / "long", 20'000);
  long_job.config.checkpoint_every_tokens = 64 * 20'000;
  ChildProcess child([&, n = ranks] {
    install_stop_signals();
    train_on_threads(long_job, n);
  });
  while (child.is_running() && !std::filesystem::exists(folder / "long/metrics.jsonl")) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  while (child.is_running() && thresher::file_size(folder / "long/metrics.jsonl") < 20'000) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  child.kill(signal);
  EXPECT_EQ(child.wait(), 75);
  const Json status = Json::parse(read_text_file(folder / "long/status.json"), "status.json");
  EXPECT_EQ(status.at("state").as_string(), "stopped");
  EXPECT_EQ(status.at("exit_code").as_int(), 75);
  const auto checkpoints = list_checkpoints(folder / "long");
  ASSERT_EQ(checkpoints.size(), 1U);
  EXPECT_EQ(checkpoints[0].step, status.at("step").as_int());
  EXPECT_GT(checkpoints[0].step, 0);
}
INSTANTIATE_TEST_SUITE_P(SignalsAndRanks, StopTest,
                         testing::Values(std::pair(SIGUSR1, 1), std::pair(SIGTERM, 4),
                                         std::pair(SIGINT, 2)));

TEST_F(ResumeTest, StoppedAgainAndAgainLeavesTheSameBytes) {
  // Every start is asked to stop before its first step; between them a kill lets some steps pass.
  for (int start = 0; start < 3; ++start) {
    ChildProcess stopped([&] {
      set_stop_requested(true);
      train_on_threads(job(), 2);
    });
    ASSERT_EQ(stopped.wait(), 75);
    ASSERT_EQ(train_in_child(job(), 1, "train.step:13"), 128 + SIGKILL);
  }
  EXPECT_EQ(train_in_child(job()), 0);
  EXPECT_EQ(difference(), "");
}

TEST_F(ResumeTest, AStopInTheMiddleLeavesTheSameSaesAndMetrics) {
  ChildProcess child([&] {
    install_stop_signals();
    train_on_threads(job());
  });
  while (child.is_running() && list_checkpoints(folder / "run").empty()) {
    std::this_thread::yield();
  }
  child.kill(SIGUSR1);
  const int code = child.wait();
  EXPECT_TRUE(code == 75 || code == 0) << code;
  EXPECT_EQ(train_in_child(job(), 2), 0);
  const auto whole = promised_bytes(folder / "whole"), run = promised_bytes(folder / "run");
  for (const auto& [name, bytes] : whole) {
    if (name.starts_with("sae/") || name == "metrics.jsonl") {
      EXPECT_EQ(run.at(name), bytes) << name;
    }
  }
}

}  // namespace
}  // namespace thresher::trainer
