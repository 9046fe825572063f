// The same SAEs, checkpoints and metrics whatever the number of ranks, and whatever else is trained
// beside.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <span>
#include <sstream>

#include "core/files.h"
#include "trainer/run_directory.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kSteps = 40;

class RanksTest : public testing::TestWithParam<int> {};

TEST_P(RanksTest, LeaveTheBytesOfOneRank) {
  const TemporaryFolder folder;
  train_on_threads(tiny_job(folder / "one", kSteps), 1);
  train_on_threads(tiny_job(folder / "many", kSteps), GetParam());
  EXPECT_EQ(differing_files(folder / "one", folder / "many"), "");
}

TEST_P(RanksTest, LeaveTheBytesOfOneRankWithSchedulesAveragesAndResampling) {
  const TemporaryFolder folder;
  train_on_threads(rich_job(folder / "one", kSteps), 1);
  train_on_threads(rich_job(folder / "many", kSteps), GetParam());
  EXPECT_EQ(differing_files(folder / "one", folder / "many"), "");
}
INSTANTIATE_TEST_SUITE_P(TwoFourAndEight, RanksTest, testing::Values(2, 4, 8));

TEST(RunTest, AnotherSeedLeavesOtherBytes) {
  const TemporaryFolder folder;
  train_on_threads(tiny_job(folder / "a", kSteps));
  TrainJob job = tiny_job(folder / "b", kSteps);
  job.seed = 43;
  train_on_threads(job);
  EXPECT_NE(differing_files(folder / "a", folder / "b"), "");
}

std::string lines_of(const std::filesystem::path& run_dir, const std::string& sae) {
  std::ifstream file(run_dir / "metrics.jsonl");
  std::string line, kept;
  while (std::getline(file, line)) {
    if (Json::parse(line, "metrics.jsonl").at("sae").as_string() == sae) kept += line + "\n";
  }
  return kept;
}

/// Counts what is read, as float32.
class CountingSource : public activation_cache::SyntheticSource {
 public:
  CountingSource() : SyntheticSource(tiny_world()) {}
  void read(std::int64_t step, std::int64_t lane, std::size_t hook_index,
            std::span<float> out) override {
    ++reads;
    bytes += out.size_bytes();
    SyntheticSource::read(step, lane, hook_index, out);
  }
  std::int64_t reads = 0;
  std::size_t bytes = 0;
};

/// Six SAEs of both types and all forms.
std::vector<std::unique_ptr<sae::SaeConfig>> six_saes() {
  std::vector<std::unique_ptr<sae::SaeConfig>> saes = std::move(rich_job("", kSteps).saes);
  for (auto& config : rich_job("", kSteps).saes) {
    config->name += "-seed7";
    config->seed = 7;
    saes.push_back(std::move(config));
  }
  saes.push_back(tiny_topk());
  saes.push_back(tiny_relu());
  return saes;
}

TEST(SweepTest, SixSaesEqualTheirSoloRunsOnOneAndTwoRanksAndReadTheBatchesOnce) {
  const TemporaryFolder folder;
  TrainJob sweep = rich_job(folder / "sweep", kSteps);
  sweep.saes = six_saes();
  CountingSource source;
  train(sweep, source, *comm::make_self_communicator());
  EXPECT_EQ(source.reads, kSteps * 8) << "every lane of every batch once, whatever the SAEs";
  EXPECT_EQ(source.bytes, static_cast<std::size_t>(kSteps) * 64 * 16 * sizeof(float));
  sweep.run_dir = folder / "ranks";
  train_on_threads(sweep, 2);
  EXPECT_EQ(differing_files(folder / "sweep", folder / "ranks"), "");

  const auto all = promised_bytes(folder / "sweep");
  for (std::size_t i = 0; i < 6; ++i) {
    TrainJob solo = rich_job(folder / std::to_string(i), kSteps);
    solo.saes.clear();
    solo.saes.push_back(std::move(six_saes()[i]));
    const std::string name = solo.saes[0]->name;
    train_on_threads(solo, i % 2 == 0 ? 1 : 2);
    const auto alone = promised_bytes(solo.run_dir);
    for (const std::string file : {"cfg.json", "sae_weights.safetensors"}) {
      const std::string path = "sae/" + name + "/" + file;
      ASSERT_TRUE(alone.contains(path)) << path;
      EXPECT_EQ(alone.at(path), all.at(path)) << path;
    }
    EXPECT_EQ(alone.at("metrics.jsonl"), lines_of(folder / "sweep", name)) << name;
  }
}

TEST(SweepTest, TheOrderOfTheListDecidesNothing) {
  const TemporaryFolder folder;
  TrainJob job = rich_job(folder / "a", 20);
  job.saes = six_saes();
  train_on_threads(job);
  job.run_dir = folder / "b";
  std::reverse(job.saes.begin(), job.saes.end());
  train_on_threads(job);
  const auto a = promised_bytes(folder / "a"), b = promised_bytes(folder / "b");
  for (const auto& [name, bytes] : a) {
    if (name.starts_with("sae/")) {
      EXPECT_EQ(b.at(name), bytes) << name;
    }
  }
  EXPECT_NE(a.at("sae/bricken/sae_weights.safetensors"),
            a.at("sae/bricken-seed7/sae_weights.safetensors"));
}

TEST(RunTest, WritesALineForEveryStepAndSae) {
  const TemporaryFolder folder;
  train_on_threads(tiny_job(folder / "a", kSteps));
  std::istringstream file(read_text_file(folder / "a/metrics.jsonl"));
  std::string line;
  std::int64_t count = 0;
  while (std::getline(file, line)) {
    const Json json = Json::parse(line, "metrics.jsonl");
    EXPECT_EQ(json.at("sae").as_string(), count % 2 == 0 ? "topk" : "relu");
    EXPECT_EQ(json.at("step").as_int(), count / 2 + 1);
    EXPECT_EQ(json.at("tokens").as_int(), 64 * (count / 2 + 1));
    for (const char* key : {"loss", "batch_fvu", "l0", "learning_rate", "gradient_norm",
                            "parameter_norm", "update_norm"}) {
      EXPECT_NE(json.find(key), nullptr) << key;
    }
    ++count;
  }
  EXPECT_EQ(count, 2 * kSteps);
}

TEST(RunTest, LogsEveryNthStepAndTheLast) {
  const TemporaryFolder folder;
  TrainJob job = tiny_job(folder / "a", 25);
  job.config.log_every_steps = 10;
  job.saes.pop_back();
  train_on_threads(job);
  std::istringstream file(read_text_file(folder / "a/metrics.jsonl"));
  std::vector<std::int64_t> steps;
  for (std::string line; std::getline(file, line);) {
    steps.push_back(Json::parse(line, "metrics.jsonl").at("step").as_int());
  }
  EXPECT_EQ(steps, (std::vector<std::int64_t>{10, 20, 25}));
}

TEST(RunTest, LogsEveryStepThatResamples) {
  const TemporaryFolder folder;
  TrainJob job = rich_job(folder / "a", kSteps);
  job.config.log_every_steps = 1000;
  train_on_threads(job);
  std::istringstream file(read_text_file(folder / "a/metrics.jsonl"));
  std::vector<std::int64_t> steps;
  for (std::string line; std::getline(file, line);) {
    const Json json = Json::parse(line, "metrics.jsonl");
    if (json.at("step").as_int() == kSteps) continue;
    EXPECT_EQ(json.at("sae").as_string(), "bricken");
    EXPECT_GT(json.at("resampled_latents").as_int(), 0);
    EXPECT_EQ(json.at("step").as_int() % 5, 0);
    EXPECT_EQ(json.find("update_norm"), nullptr) << "norms belong to due lines";
    steps.push_back(json.at("step").as_int());
  }
  EXPECT_GE(steps.size(), 3U);
}

TEST(RunTest, LearnsSomething) {
  const TemporaryFolder folder;
  TrainJob job = tiny_job(folder / "a", 400);
  job.config.checkpoint_every_tokens = 0;
  train_on_threads(job);
  std::istringstream file(read_text_file(folder / "a/metrics.jsonl"));
  double first = 0, last = 0;
  for (std::string line; std::getline(file, line);) {
    const Json json = Json::parse(line, "metrics.jsonl");
    if (json.at("sae").as_string() != "topk") continue;
    last = json.at("batch_fvu").as_double();
    if (json.at("step").as_int() == 1) first = last;
  }
  EXPECT_LT(last, 0.7 * first);
}

TEST(RunTest, EndsWithStatusDone) {
  const TemporaryFolder folder;
  train_on_threads(tiny_job(folder / "a", kSteps), 2);
  const Json status = Json::parse(read_text_file(folder / "a/status.json"), "status.json");
  EXPECT_EQ(status.at("state").as_string(), "done");
  EXPECT_EQ(status.at("exit_code").as_int(), 0);
  EXPECT_EQ(status.at("step").as_int(), kSteps);
  EXPECT_EQ(status.at("ranks").as_int(), 2);
  EXPECT_EQ(read_text_file(folder / "a/config.resolved.yaml"), "run:\n  name: tiny\n");
}

}  // namespace
}  // namespace thresher::trainer
