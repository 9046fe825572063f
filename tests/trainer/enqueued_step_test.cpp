#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "sae/device_topk_sae.h"
#include "sae/topk_sae.h"
#include "tests/sae/test_devices.h"
#include "trainer/checkpoint.h"
#include "trainer/step.h"
#include "training_testing.h"

// The step of an SAE whose work is enqueued, beside the step that looks at gradients on the host.

namespace thresher::trainer {
namespace {

constexpr std::int64_t kDim = 16;
constexpr std::int64_t kTokens = 64;
constexpr std::int64_t kWindow = 128;

at::Tensor batch(std::int64_t step) {
  at::Tensor x = at::empty({kTokens, kDim}, at::kFloat);
  const RandomStream stream(static_cast<std::uint64_t>(step), "tests.enqueued_step");
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    x.data_ptr<float>()[i] = static_cast<float>(stream.normal(static_cast<std::uint64_t>(i)));
  }
  return x;
}

sae::StepInfo info_of(std::int64_t step) {
  return {.step = step,
          .tokens_before = step * kTokens,
          .total_tokens = 40 * kTokens,
          .batch_tokens = kTokens,
          .dead_window_tokens = kWindow,
          .n_local_lanes = 1};
}

TrainConfig config_for(double clip_norm) {
  TrainConfig config;
  config.total_tokens = 40 * kTokens;
  config.batch_tokens = kTokens;
  config.lanes = 1;
  config.learning_rate = 1e-2;
  config.clip_gradient_norm = clip_norm;
  config.ema_decay = 0.9;
  return config;
}

sae::TopKConfig topk_config() {
  sae::TopKConfig config;
  config.name = "a";
  config.type = "topk";
  config.n_latents = 96;
  config.k = 4;
  config.aux_k = 8;
  return config;
}

/// An SAE with its step.
struct Trained {
  Trained(std::unique_ptr<sae::TrainingSae> made, double clip_norm)
      : sae(std::move(made)), step(*sae, config_for(clip_norm)) {
    sae->initialise(3, batch(1000));
  }
  Json run(std::int64_t number, const at::Tensor& x, bool wants_norms = false) {
    const at::Tensor there = x.to(sae->parameters()[0].weight.device());
    return step.run(info_of(number), {there}, *comm, wants_norms);
  }
  std::vector<at::Tensor> state() {
    std::vector<at::Tensor> tensors;
    for (std::size_t p = 0; p < sae->parameters().size(); ++p) {
      for (const at::Tensor& tensor :
           {sae->parameters()[p].weight, step.moments()[p].m, step.moments()[p].v}) {
        tensors.push_back(tensor.to(at::kCPU).clone());
      }
    }
    for (const auto& [name, tensor] : sae->buffers()) tensors.push_back(tensor.cpu().clone());
    return tensors;
  }

  std::unique_ptr<sae::TrainingSae> sae;
  Step step;
  std::unique_ptr<comm::Communicator> comm = comm::make_self_communicator();
};

class EnqueuedStepTest : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    const std::string reason = sae::testing::missing(GetParam());
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  static Trained on_host(double clip_norm = 1) {
    return {std::make_unique<sae::TopKSae>(topk_config(), kDim), clip_norm};
  }
  static Trained on_device(double clip_norm = 1, bool bfloat16 = false) {
    return {std::make_unique<sae::DeviceTopKSae>(topk_config(), kDim,
                                                 sae::TrainingPlace{GetParam(), bfloat16}),
            clip_norm};
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, EnqueuedStepTest, ::testing::ValuesIn(sae::testing::devices()),
                         [](const auto& param) { return std::string(device_name(param.param)); });

TEST_P(EnqueuedStepTest, TrainsAsTheHostDoes) {
  // With clipping that bites, clipping that does not, and none.
  for (const double clip_norm : {0.05, 1e6, 0.0}) {
    Trained expected = on_host(clip_norm), actual = on_device(clip_norm);
    for (std::int64_t step = 0; step < 12; ++step) {
      const bool wants_norms = step % 2 == 1;
      const Json host = expected.run(step, batch(step), wants_norms);
      const Json device = actual.run(step, batch(step), wants_norms);
      ASSERT_EQ(device.as_object().size(), host.as_object().size());
      for (const auto& [name, value] : host.as_object()) {
        const double wanted = value.as_double();
        EXPECT_NEAR(device.at(name).as_double(), wanted, 1e-5 * (1 + std::abs(wanted)))
            << name << " at step " << step << ", clipped to " << clip_norm;
      }
    }
    EXPECT_GT(expected.sae->buffers()[0].second.ge(kWindow).sum().item<int>(), 0) << "AuxK worked";
    const auto a = expected.state(), b = actual.state();
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_TRUE(at::allclose(b[i], a[i], 1e-3, 1e-5)) << "tensor " << i;
    }
  }
}

TEST_P(EnqueuedStepTest, KeepsDecoderRowsAtUnitNormWithAndWithoutNorms) {
  Trained trained = on_device();
  for (std::int64_t step = 0; step < 4; ++step) trained.run(step, batch(step), step % 2 == 1);
  const at::Tensor norms = trained.sae->parameters()[2].weight.to(at::kDouble).norm(2, 1);
  EXPECT_LT((norms - 1).abs().max().item<double>(), 1e-6);
}

TEST_P(EnqueuedStepTest, UpdatesNothingForANanAndNamesIt) {
  for (const bool wants_norms : {false, true}) {
    Trained trained = on_device(1, true);
    for (std::int64_t step = 0; step < 3; ++step) trained.run(step, batch(step));
    const auto before = trained.state();
    const at::Tensor rounded = trained.sae->parameters()[0].bfloat16.clone();
    at::Tensor bad = batch(3);
    bad[5][2] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(
        first_line_of([&] { trained.run(3, bad, wants_norms); }),
        "SAE a, step 3: the gradient norm is not finite; the first bad value is in the input, "
        "lane 0 row 5");
    const auto after = trained.state();
    for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(at::equal(after[i], before[i]));
    EXPECT_TRUE(at::equal(trained.sae->parameters()[0].bfloat16, rounded));
    EXPECT_NO_THROW(trained.run(3, batch(3))) << "a step without it goes on";
  }
}

TEST_P(EnqueuedStepTest, KeepsTheBfloat16CopiesEqualToTheWeights) {
  Trained trained = on_device(1, true);
  for (std::int64_t step = 0; step < 5; ++step) {
    trained.run(step, batch(step), step == 2);
    for (const std::size_t p : {0, 2}) {
      const sae::Parameter& matrix = trained.sae->parameters()[p];
      EXPECT_TRUE(at::equal(matrix.bfloat16, matrix.weight.to(at::kBFloat16))) << step;
    }
  }
}

TEST_P(EnqueuedStepTest, ContinuesFromACheckpointWithTheSameBits) {
  const TemporaryFolder folder;
  Trained whole = on_device(1, true);
  for (std::int64_t step = 0; step < 6; ++step) whole.run(step, batch(step));
  sae::InputTransform transform;
  transform.centre.assign(kDim, 0.0);
  const auto slot_of = [&](Trained& trained) {
    return SaeSlot{"a", trained.sae.get(), &trained.step.moments(), &transform,
                   &trained.step.average()};
  };
  const SaeSlot saved = slot_of(whole);
  CheckpointContent content;
  content.state.step = 6;
  content.config_yaml = "schema: 1\n";
  content.borrow({&saved, 1});
  write_checkpoint(folder.path(), content, 2);

  Trained resumed = on_device(1, true);
  const SaeSlot loaded = slot_of(resumed);
  load_checkpoint(list_checkpoints(folder.path()).at(0).folder, {&loaded, 1});
  for (std::int64_t step = 6; step < 10; ++step) {
    const Json expected = whole.run(step, batch(step));
    EXPECT_EQ(resumed.run(step, batch(step)).dump(), expected.dump()) << step;
  }
  const auto a = whole.state(), b = resumed.state();
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i])) << i;
}

TEST_P(EnqueuedStepTest, ExportsTheAverageOfTheWeights) {
  Trained expected = on_host(), actual = on_device();
  for (std::int64_t step = 0; step < 5; ++step) {
    expected.run(step, batch(step));
    actual.run(step, batch(step));
  }
  sae::InputTransform transform;
  transform.centre.assign(kDim, 0.0);
  const sae::InferenceSae a = expected.step.average().to_inference(transform);
  const sae::InferenceSae b = actual.step.average().to_inference(transform);
  EXPECT_TRUE(at::allclose(b.W_enc, a.W_enc, 1e-3, 1e-5));
  EXPECT_TRUE(at::allclose(b.W_dec, a.W_dec, 1e-3, 1e-5));
}

}  // namespace
}  // namespace thresher::trainer
