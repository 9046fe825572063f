#include "trainer/checkpoint.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

/// A run of 20 steps with checkpoints at 10 and 20.
class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override { train_on_threads(tiny_job(folder / "run", 20)); }
  std::filesystem::path newest() const { return folder / "run/ckpt/step-00000020"; }
  std::string verdict() const {
    return first_line_of([&] { verify_checkpoint(newest()); });
  }

  TemporaryFolder folder;
};

TEST_F(CheckpointTest, HoldsItsFilesAndNothingElse) {
  std::vector<std::string> names;
  for (const auto& path : list_folder(newest())) names.push_back(path.filename().string());
  EXPECT_EQ(names, (std::vector<std::string>{"COMMIT", "config.resolved.yaml", "model.safetensors",
                                             "optim.safetensors", "state.json"}));
}

TEST_F(CheckpointTest, NamesTensorsByTheirGlobalShapes) {
  const SafetensorsFile model(newest() / "model.safetensors");
  EXPECT_EQ(model.at("topk.W_enc").shape, (std::vector<std::int64_t>{16, 64}));
  EXPECT_EQ(model.at("topk.W_dec").shape, (std::vector<std::int64_t>{64, 16}));
  EXPECT_EQ(model.at("relu.b_enc").shape, (std::vector<std::int64_t>{48}));
  EXPECT_EQ(model.at("topk.tokens_since_fired").dtype, "I64");
  EXPECT_EQ(model.at("topk.input_centre").dtype, "F64");
  const SafetensorsFile optimiser(newest() / "optim.safetensors");
  EXPECT_EQ(optimiser.at("topk.W_enc.m").shape, (std::vector<std::int64_t>{16, 64}));
  EXPECT_EQ(optimiser.at("relu.b_dec.v").shape, (std::vector<std::int64_t>{16}));
}

TEST_F(CheckpointTest, StateHoldsNothingOfRanksHostsOrTimes) {
  const Json state = Json::parse(read_text_file(newest() / "state.json"), "state.json");
  std::vector<std::string> keys;
  for (const auto& [name, value] : state.as_object()) keys.push_back(name);
  EXPECT_EQ(keys, (std::vector<std::string>{"format", "step", "tokens", "metrics_bytes", "identity",
                                            "figures"}));
  EXPECT_EQ(state.at("step").as_int(), 20);
  EXPECT_EQ(state.at("tokens").as_int(), 1280);
  EXPECT_EQ(static_cast<std::uint64_t>(state.at("metrics_bytes").as_int()),
            thresher::file_size(folder / "run/metrics.jsonl"));
}

TEST_F(CheckpointTest, GivesOneSaeToWhoeverAsks) {
  auto config = tiny_topk();
  const auto sae = sae::make_training_sae(*config, 16);
  const sae::InputTransform transform = load_checkpoint_model(newest(), "topk", *sae);
  const sae::InferenceSae ours = sae->to_inference(transform);
  const sae::InferenceSae exported = sae::load_saelens(folder / "run/sae/topk");
  EXPECT_TRUE(at::equal(ours.W_enc, exported.W_enc));
  EXPECT_TRUE(at::equal(ours.W_dec, exported.W_dec));
  EXPECT_TRUE(at::equal(ours.b_enc, exported.b_enc));
  EXPECT_TRUE(at::equal(ours.b_dec, exported.b_dec));
}

TEST_F(CheckpointTest, RefusesAnSaeOfAnotherWidth) {
  auto config = tiny_topk();
  config->n_latents = 32;
  const auto sae = sae::make_training_sae(*config, 16);
  EXPECT_EQ(first_line_of([&] { load_checkpoint_model(newest(), "topk", *sae); }),
            (newest() / "model.safetensors").string() +
                ": tensor topk.W_enc is F32 [16, 64], the run needs F32 [16, 32]");
}

TEST_F(CheckpointTest, ASoundOneIsSound) { EXPECT_EQ(verdict(), "no error"); }

TEST_F(CheckpointTest, FindsAnyFlippedBit) {
  const RandomStream random(9, "flips");
  std::uint64_t draw = 0;
  for (const auto& path : list_folder(newest())) {
    const auto bytes = read_binary_file(path, 1 << 26);
    for (int flip = 0; flip < 20; ++flip) {
      auto damaged = bytes;
      const std::uint64_t at = random.below(draw++, bytes.size());
      damaged[at] ^= static_cast<std::byte>(1U << random.below(draw++, 8));
      write_file_atomically(path, damaged);
      // In COMMIT a blank may turn into another one, which says the same.
      const std::string line = verdict();
      if (path.filename() == "COMMIT" && line == "no error") {
        EXPECT_EQ(Json::parse({reinterpret_cast<const char*>(damaged.data()), damaged.size()}, ""),
                  Json::parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, ""));
      } else {
        EXPECT_NE(line, "no error") << path << " byte " << at;
      }
    }
    write_file_atomically(path, bytes);
  }
  EXPECT_EQ(verdict(), "no error");
}

TEST_F(CheckpointTest, NamesAFileThatIsCutShort) {
  const auto path = newest() / "model.safetensors";
  const auto size = thresher::file_size(path);
  std::filesystem::resize_file(path, size - 1);
  EXPECT_EQ(verdict(), path.string() + ": " + std::to_string(size - 1) + " bytes, COMMIT says " +
                           std::to_string(size));
}

TEST_F(CheckpointTest, NamesAFileWhoseContentChanged) {
  const auto path = newest() / "optim.safetensors";
  auto bytes = read_binary_file(path, 1 << 26);
  bytes.back() ^= std::byte{1};
  write_file_atomically(path, bytes);
  EXPECT_EQ(verdict(), path.string() + ": the content does not match the SHA-256 in COMMIT");
}

TEST_F(CheckpointTest, NamesAMissingCommit) {
  std::filesystem::remove(newest() / "COMMIT");
  EXPECT_EQ(verdict(), (newest() / "COMMIT").string() + ": the file is missing");
}

TEST_F(CheckpointTest, RefusesACommitThatLeavesTheFolder) {
  const auto path = newest() / "COMMIT";
  std::string text = read_text_file(path);
  text.replace(text.find("model.safetensors"), 17, "../l.safetensors!");
  write_file_atomically(path, text);
  EXPECT_EQ(verdict(), path.string() + ": its own SHA-256 does not match");
}

TEST_F(CheckpointTest, ListsOnlyCommittedOnesInOrder) {
  for (const char* name : {".tmp-step-00000030", ".del-step-00000005", "damaged-step-00000040",
                           "step-30", "step-00000x30", "step-00000100"}) {
    std::filesystem::create_directory(folder / "run/ckpt" / name);
  }
  std::vector<std::int64_t> steps;
  for (const auto& entry : list_checkpoints(folder / "run")) steps.push_back(entry.step);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{10, 20, 100}));
  clean_checkpoints(folder / "run");
  EXPECT_FALSE(std::filesystem::exists(folder / "run/ckpt/.tmp-step-00000030"));
  EXPECT_FALSE(std::filesystem::exists(folder / "run/ckpt/.del-step-00000005"));
  EXPECT_TRUE(std::filesystem::exists(folder / "run/ckpt/damaged-step-00000040"));
}

TEST(CheckpointRetentionTest, KeepsTheNewestSoMany) {
  const TemporaryFolder folder;
  TrainJob job = tiny_job(folder / "run", 50);
  job.config.keep_checkpoints = 3;
  train_on_threads(job);
  std::vector<std::int64_t> steps;
  for (const auto& entry : list_checkpoints(folder / "run")) steps.push_back(entry.step);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{30, 40, 50}));
}

}  // namespace
}  // namespace thresher::trainer
