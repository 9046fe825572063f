// Checkpoints that earlier versions wrote must stay readable. tests/trainer/golden/v1 was written
// by
//   trainer_test --gtest_also_run_disabled_tests --gtest_filter='*WriteAGoldenRun'
// A change of the format adds a folder and changes none.
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "core/error.h"
#include "sae/registry.h"
#include "sae/sae_config.h"
#include "trainer/checkpoint.h"
#include "trainer/trained_sae.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kWidth = 4;

std::filesystem::path golden() { return THRESHER_GOLDEN_RUN; }

std::unique_ptr<sae::SaeConfig> small(const std::string& type) {
  auto config = sae::default_sae_config(type);
  config->name = type;
  config->hook_point = "synthetic";
  config->n_latents = 8;
  config->dead_window_tokens = 128;
  config->use_form_defaults();
  if (auto* topk = dynamic_cast<sae::TopKConfig*>(config.get())) {
    topk->k = 4;
    topk->aux_k = 2;
  }
  return config;
}

TEST(GoldenCheckpointTest, DISABLED_WriteAGoldenRun) {
  TrainJob job = tiny_job(golden(), 12);
  job.config.ema_decay = 0.5;
  job.config.tensorboard = false;
  job.saes.clear();
  for (const char* type : {"topk", "batch_topk", "relu_l1", "jumprelu"}) {
    job.saes.push_back(small(type));
  }
  activation_cache::SyntheticWorld world = tiny_world();
  world.d_in = kWidth;
  activation_cache::SyntheticSource source(world);
  train(job, source, *comm::make_self_communicator());
}

class GoldenCheckpointTest : public testing::TestWithParam<const char*> {};

TEST_P(GoldenCheckpointTest, GivesTheSaeThatWasExportedFromIt) {
  const auto sae = sae::make_training_sae(*small(GetParam()), kWidth);
  const sae::InputTransform transform =
      load_checkpoint_model(golden() / "ckpt/step-00000012", GetParam(), *sae);
  const sae::InferenceSae ours = sae->to_inference(transform);
  const sae::InferenceSae exported = sae::load_saelens(golden() / "sae" / GetParam());
  const at::Tensor x = at::arange(40, at::kFloat).reshape({10, kWidth}) * 0.1 - 2;
  EXPECT_TRUE(at::equal(ours.W_dec, exported.W_dec));
  EXPECT_TRUE(at::equal(ours.encode_dense(x), exported.encode_dense(x)));
  EXPECT_GT(ours.encode_dense(x).count_nonzero().item<std::int64_t>(), 0);
}
INSTANTIATE_TEST_SUITE_P(EveryVariant, GoldenCheckpointTest,
                         testing::Values("topk", "batch_topk", "relu_l1", "jumprelu"),
                         [](const auto& type) { return std::string(type.param); });

TEST(GoldenCheckpointTest, HasTheStateThatWasSaved) {
  const CheckpointState state = verify_checkpoint(golden() / "ckpt/step-00000012");
  EXPECT_EQ(state.step, 12);
  EXPECT_EQ(state.tokens, 768);
  EXPECT_EQ(state.identity.at("run").at("seed").as_int(), 42);
  EXPECT_EQ(state.figures.at("topk").at("l0").as_double(), 3.34375);
}

}  // namespace
}  // namespace thresher::trainer
