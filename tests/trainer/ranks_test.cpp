// The same SAEs, checkpoints and metrics whatever the number of ranks, and whatever else is trained
// beside.
#include <gtest/gtest.h>

#include <fstream>
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

TEST(RunTest, SaesOfAListEqualTheirSoloRuns) {
  const TemporaryFolder folder;
  train_on_threads(tiny_job(folder / "both", kSteps));
  for (const std::string name : {"topk", "relu"}) {
    TrainJob job = tiny_job(folder / name, kSteps);
    job.saes.clear();
    job.saes.push_back(name == "topk" ? tiny_topk() : tiny_relu());
    train_on_threads(job);
    const auto both = promised_bytes(folder / "both"), solo = promised_bytes(folder / name);
    for (const std::string file : {"cfg.json", "sae_weights.safetensors"}) {
      const std::string path = "sae/" + name + "/" + file;
      ASSERT_TRUE(solo.contains(path));
      EXPECT_EQ(solo.at(path), both.at(path)) << path;
    }
    EXPECT_EQ(solo.at("metrics.jsonl"), lines_of(folder / "both", name));
  }
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
    for (const char* key : {"loss", "batch_fvu", "l0", "learning_rate", "gradient_norm"}) {
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
