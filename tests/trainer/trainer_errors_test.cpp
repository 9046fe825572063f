// What the trainer refuses, each with one clear first line and the right exit code.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "sae/jumprelu_config.h"
#include "trainer/checkpoint.h"
#include "trainer/run_directory.h"
#include "trainer/trained_sae.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

/// A synthetic source with one bad row, or one that cannot be read.
class BadSource : public activation_cache::SyntheticSource {
 public:
  BadSource(std::int64_t step, std::int64_t lane, bool throws)
      : SyntheticSource(tiny_world()), step_(step), lane_(lane), throws_(throws) {}
  void read(std::int64_t step, std::int64_t lane, std::size_t hook_index,
            std::span<float> out) override {
    SyntheticSource::read(step, lane, hook_index, out);
    if (step != step_ || lane != lane_) return;
    if (throws_) throw DataError("shard-000.h5: block 7 is damaged");
    out[3 * 16 + 5] = std::numeric_limits<float>::quiet_NaN();
  }

 private:
  std::int64_t step_, lane_;
  bool throws_;
};

class AlwaysBadSource : public activation_cache::SyntheticSource {
 public:
  AlwaysBadSource() : SyntheticSource(tiny_world()) {}
  void read(std::int64_t step, std::int64_t lane, std::size_t hook_index,
            std::span<float> out) override {
    SyntheticSource::read(step, lane, hook_index, out);
    out[0] = std::numeric_limits<float>::infinity();
  }
};

std::string train_on_bad_source(const TrainJob& job, int ranks, bool throws) {
  return first_line_of([&] {
    comm::run_thread_ranks(ranks, 30, [&](comm::Communicator& comm) {
      BadSource source(15, 6, throws);
      train(job, source, comm);
    });
  });
}

TEST(TrainerErrorsTest, RanksThatDoNotDivideTheLanes) {
  const TemporaryFolder folder;
  const TrainJob job = tiny_job(folder / "a", 10);
  EXPECT_EQ(first_line_of([&] { train_on_threads(job, 3); }),
            "3 ranks do not divide train.lanes = 8");
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
}

TEST(TrainerErrorsTest, ADeadWindowLongerThanTheRun) {
  const TemporaryFolder folder;
  TrainJob job = tiny_job(folder / "a", 10);
  job.saes[1]->dead_window_tokens = 641;
  EXPECT_EQ(first_line_of([&] { train_on_threads(job); }),
            "sae[1].dead_window_tokens = 641 is more than train.total_tokens = 640");
}

TEST(DeadWindowTest, DefaultsToATenthOfAShortRunAndTenMillionOfALongOne) {
  sae::TopKConfig config;
  TrainConfig train;
  train.total_tokens = 5000;
  EXPECT_EQ(dead_window_tokens(config, train, 0), 500);
  train.total_tokens = 1'000'000'000;
  EXPECT_EQ(dead_window_tokens(config, train, 0), 10'000'000);
  config.dead_window_tokens = 7;
  EXPECT_EQ(dead_window_tokens(config, train, 0), 7);
}

TEST(TrainerErrorsTest, TwoSaesOfOneName) {
  const TemporaryFolder folder;
  TrainJob job = tiny_job(folder / "a", 10);
  job.saes[1]->name = "topk";
  EXPECT_EQ(first_line_of([&] { train_on_threads(job); }),
            "sae[1].name = topk is taken by another SAE of the list");
}

TEST(TrainerErrorsTest, ANameThatLeavesTheRunDirectory) {
  const TemporaryFolder folder;
  TrainJob job = tiny_job(folder / "a", 10);
  job.saes[1]->name = "../relu";
  EXPECT_EQ(first_line_of([&] { train_on_threads(job); }),
            "sae[1].name = \"../relu\" cannot be a folder's name");
}

class BadRowTest : public testing::TestWithParam<int> {};

TEST_P(BadRowTest, IsNamedAndNothingIsUpdatedByIt) {
  const TemporaryFolder folder;
  const TrainJob job = tiny_job(folder / "a", 40);
  const std::string line = train_on_bad_source(job, GetParam(), false);
  EXPECT_EQ(line.substr(line.find("SAE")),
            "SAE topk, step 15: the gradient norm is not finite; the first bad value is in the "
            "input, lane 6 row 3");
  // The checkpoint of step 10 stands, and with a sound source the run goes on from it to the
  // undisturbed end.
  ASSERT_EQ(list_checkpoints(folder / "a").back().step, 10);
  const Json status = Json::parse(read_text_file(folder / "a/status.json"), "status.json");
  EXPECT_EQ(status.at("state").as_string(), "failed");
  EXPECT_EQ(status.at("exit_code").as_int(), 65);
  train_on_threads(job);
  train_on_threads(tiny_job(folder / "b", 40));
  EXPECT_EQ(differing_files(folder / "a", folder / "b"), "");
}
INSTANTIATE_TEST_SUITE_P(OneAndFourRanks, BadRowTest, testing::Values(1, 4));

TEST_P(BadRowTest, IsKeptForWhoeverLooksForTheCause) {
  const TemporaryFolder folder;
  train_on_bad_source(tiny_job(folder / "a", 40), GetParam(), false);
  const auto kept = folder / "a/bad-steps/step-00000015-topk";
  const Json record = Json::parse(read_text_file(kept / "record.json"), "record.json");
  EXPECT_EQ(record.at("first_bad_value").as_string(), "the input, lane 6 row 3");
  EXPECT_EQ(record.at("ranks").as_int(), GetParam());
  // Lane 6 is in the file that begins with the first lane of its rank.
  const std::int64_t first = GetParam() == 1 ? 0 : 6;
  const SafetensorsFile file(kept / ("lanes-0000" + std::to_string(first) + ".safetensors"));
  const std::vector<float> lane = file.read_float32("lane.6");
  ASSERT_EQ(lane.size(), 8U * 16U);
  for (std::size_t i = 0; i < lane.size(); ++i) {
    EXPECT_EQ(std::isnan(lane[i]), i == 3 * 16 + 5) << i;
  }
}

TEST_P(BadRowTest, IsLeftOutWhereThatIsWanted) {
  const TemporaryFolder folder;
  TrainJob job = tiny_job(folder / "a", 40);
  job.config.on_bad_step = "skip";
  EXPECT_EQ(train_on_bad_source(job, GetParam(), false), "no error");
  const auto trained = [&](const char* name) { return folder / name / "metrics.jsonl"; };
  std::int64_t topk_steps = 0, skipped = 0;
  for_each_json_line(trained("a"), [&](const Json& line, const std::string&) {
    if (line.at("sae").as_string() != "topk") return;
    ++topk_steps;
    EXPECT_NE(line.at("step").as_int(), 16);
    if (const Json* count = line.find("skipped_steps")) skipped = count->as_int();
  });
  EXPECT_EQ(topk_steps, 39);
  EXPECT_EQ(skipped, 1);
}

TEST(TrainerErrorsTest, MoreBadStepsThanMayBeSkippedStopTheRun) {
  const TemporaryFolder folder;
  TrainJob job = tiny_job(folder / "a", 40);
  job.config.on_bad_step = "skip";
  job.config.max_skipped_steps = 1;
  job.config.batch_tokens = 64;
  const std::string line = first_line_of([&] {
    AlwaysBadSource source;
    train(job, source, *comm::make_self_communicator());
  });
  EXPECT_EQ(line.substr(0, line.find(':')), "SAE topk, step 1");
}

TEST(TrainerErrorsTest, AReadThatFailsOnOneRankEndsAllWithItsReason) {
  const TemporaryFolder folder;
  const std::string line = train_on_bad_source(tiny_job(folder / "a", 40), 4, true);
  EXPECT_EQ(line, "rank 3: shard-000.h5: block 7 is damaged");
}

TEST(TrainerErrorsTest, AnUnknownHookPoint) {
  const TemporaryFolder folder;
  TrainJob job = tiny_job(folder / "a", 10);
  job.saes[0]->hook_point = "blocks.1.hook_resid_post";
  EXPECT_NE(first_line_of([&] { train_on_threads(job); }).find("blocks.1.hook_resid_post"),
            std::string::npos);
}

TEST(EstimateTest, CountsWholeStepsAndGrowsWithTheSae) {
  const TemporaryFolder folder;
  TrainJob job = tiny_job(folder / "a", 10);
  job.config.total_tokens = 700;
  const activation_cache::SyntheticSource source(tiny_world());
  const TrainEstimate small = estimate_training(job, source, 1);
  EXPECT_EQ(small.steps, 10);
  EXPECT_EQ(small.tokens, 640);
  job.saes[0]->n_latents = 6400;
  const TrainEstimate large = estimate_training(job, source, 1);
  // 2 x 16 x 6336 more weights of 4 bytes: five copies in memory; three checkpoints of three, and
  // the export, on disk.
  EXPECT_GE(large.memory_bytes_per_rank - small.memory_bytes_per_rank, 5 * 4 * 2 * 16 * 6336ULL);
  EXPECT_EQ(large.disk_bytes - small.disk_bytes, 10 * 4 * (2 * 16 + 1) * 6336ULL);
}

TEST(EstimateTest, AddsUpTheSaesOfASweepAndTheirAverages) {
  TrainJob job = tiny_job("", 10);
  job.saes.resize(1);
  job.saes[0]->n_latents = 6400;
  const activation_cache::SyntheticSource source(tiny_world());
  const TrainEstimate one = estimate_training(job, source, 1);
  for (int i = 1; i < 6; ++i) {
    job.saes.push_back(tiny_topk("topk" + std::to_string(i)));
    job.saes.back()->n_latents = 6400;
  }
  const TrainEstimate six = estimate_training(job, source, 1);
  const std::uint64_t weights = 4 * (2 * 16 * 6400 + 16 + 6400);
  EXPECT_EQ(six.disk_bytes, 6 * one.disk_bytes);
  EXPECT_GE(six.memory_bytes_per_rank - one.memory_bytes_per_rank, 5 * 5 * weights);
  job.config.ema_decay = 0.9;
  const TrainEstimate averaged = estimate_training(job, source, 1);
  EXPECT_EQ(averaged.disk_bytes - six.disk_bytes, 3 * 6 * weights) << "three checkpoints";
  EXPECT_GE(averaged.memory_bytes_per_rank - six.memory_bytes_per_rank, 6 * weights);
}

std::uint64_t memory_of(std::unique_ptr<sae::SaeConfig> config) {
  TrainJob job = tiny_job("", 10);
  job.saes.clear();
  job.saes.push_back(std::move(config));
  return estimate_training(job, activation_cache::SyntheticSource(tiny_world()), 1)
      .memory_bytes_per_rank;
}

TEST(EstimateTest, CountsAuxKWhereThereIsOne) {
  const auto without = [] {
    auto config = tiny_topk();
    dynamic_cast<sae::TopKConfig&>(*config).aux_coefficient = 0;
    return config;
  };
  // 6 x 8 latents may be dead and dense. 64 rows of activations, gradients, inputs and errors,
  // packed; three copies of the weights, and two levels of the tree over 8 lanes for both matrices.
  EXPECT_EQ(memory_of(tiny_topk()) - memory_of(without()),
            64 * 4 * 2 * (48 + 16) + 4 * (3 + 2 * 2) * 48 * 16ULL);
}

TEST(EstimateTest, CountsCandidatesOfBatchTopK) {
  const auto topk = tiny_topk();
  auto config = std::make_unique<sae::BatchTopKConfig>();
  static_cast<sae::TopKConfig&>(*config) = dynamic_cast<const sae::TopKConfig&>(*topk);
  config->type = "batch_topk";
  // 64 x 2 pairs, three more candidates for each.
  EXPECT_EQ(memory_of(std::move(config)) - memory_of(tiny_topk()), 64 * 2 * 3 * 8ULL);
}

TEST(EstimateTest, CountsPairsOfJumpReluUpToWhatItKeeps) {
  const auto jumprelu = [](std::int64_t n_latents) {
    auto config = std::make_unique<sae::JumpReluConfig>();
    config->use_form_defaults();
    config->name = "jump";
    config->hook_point = "synthetic";
    config->type = "jumprelu";
    config->n_latents = n_latents;
    return config;
  };
  // Weights, gradients and two moments, 40 bytes a pair of all 64 rows, five levels of the tree.
  EXPECT_EQ(memory_of(jumprelu(6400)) - memory_of(jumprelu(64)),
            6336 * (4 * 4 * (2 * 16 + 1) + 40 * 64 + 5 * 4 * 2 * 16ULL));
  // Of 19.2 million pairs no more than 2^24 are kept.
  const std::int64_t more = 300'000 - 6400;
  EXPECT_EQ(memory_of(jumprelu(300'000)) - memory_of(jumprelu(6400)),
            more * (4 * 4 * (2 * 16 + 1) + 5 * 4 * 2 * 16ULL) + 40 * ((1ULL << 24) - 64 * 6400));
}

}  // namespace
}  // namespace thresher::trainer
