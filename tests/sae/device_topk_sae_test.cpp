#include "sae/device_topk_sae.h"

#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "sae/exec.h"
#include "sae/topk_sae.h"
#include "tests/sae/sae_testing.h"
#include "tests/sae/test_devices.h"

// The trainer for devices beside the one for processors, which brute force and central differences
// have checked (topk_sae_test.cpp).

namespace thresher::sae {
namespace {

using testing::normal_values;
using testing::relative_difference;

constexpr std::int64_t kDim = 24;
constexpr std::int64_t kLatents = 112;
constexpr std::int64_t kTokens = 64;
constexpr std::int64_t kWindow = 1000;

TopKConfig small_config() {
  TopKConfig config;
  config.name = "a";
  config.type = "topk";
  config.hook_point = "blocks.0.hook_resid_post";
  config.n_latents = kLatents;
  config.k = 7;
  config.aux_k = 9;
  config.aux_coefficient = 0.5;
  return config;
}

StepInfo step_info(std::int64_t step = 0) {
  return {.step = step,
          .tokens_before = step * kTokens,
          .total_tokens = 100 * kTokens,
          .batch_tokens = kTokens,
          .dead_window_tokens = kWindow,
          .n_local_lanes = 1};
}

at::Tensor buffer(TrainingSae& sae, const std::string& name) {
  for (const auto& [key, tensor] : sae.buffers()) {
    if (key == name) return tensor;
  }
  throw InternalError("no buffer " + name);
}

/// Both from one seed, then moved to somewhere in mid-training with every `dead_every`-th latent
/// dead (0: none).
struct Pair {
  TopKSae expected;
  DeviceTopKSae actual;

  Pair(const TopKConfig& config, Device device, std::int64_t dead_every, bool bfloat16 = false)
      : expected(config, kDim), actual(config, kDim, {device, bfloat16}) {
    const at::Tensor sample = normal_values({64, kDim}, 1) + 0.5;
    expected.initialise(7, sample);
    actual.initialise(7, sample);
    for (TrainingSae* sae :
         {static_cast<TrainingSae*>(&expected), static_cast<TrainingSae*>(&actual)}) {
      const auto add = [&](std::size_t p, std::vector<std::int64_t> shape, std::uint64_t seed) {
        at::Tensor& weight = sae->parameters()[p].weight;
        weight.add_(normal_values(std::move(shape), seed).to(weight.device()), 0.2);
      };
      add(0, {kDim, kLatents}, 2);
      add(1, {kLatents}, 3);
      add(3, {kDim}, 4);
      if (dead_every > 0) {
        buffer(*sae, "tokens_since_fired").slice(0, 1, kLatents, dead_every).fill_(kWindow);
      }
    }
  }

  void gradients(const at::Tensor& x, const StepInfo& info, comm::Communicator& comm) {
    const at::Tensor there = x.to(actual.parameters()[0].weight.device());
    run(expected, x, info, comm);
    run(actual, there, info, comm);
  }

 private:
  static void run(TrainingSae& sae, const at::Tensor& x, const StepInfo& info,
                  comm::Communicator& comm) {
    sae.begin_step(info);
    sae.forward({x}, comm);
    sae.backward();
    for (const Parameter& parameter : sae.parameters()) {
      comm.all_reduce_sum_on_device(device_values(parameter.gradient), parameter.name);
    }
    sae.finish_gradients();
  }
};

void expect_figures(const Json& actual, const Json& expected, double tolerance) {
  for (const char* name : {"loss", "reconstruction_loss", "aux_loss", "batch_fvu"}) {
    EXPECT_NEAR(actual.at(name).as_double(), expected.at(name).as_double(),
                tolerance * (1 + std::abs(expected.at(name).as_double())))
        << name;
  }
  for (const char* name : {"l0", "dead_latents"}) {
    EXPECT_EQ(actual.at(name).as_double(), expected.at(name).as_double()) << name;
  }
}

class DeviceTopKSaeTest : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    const std::string reason = testing::missing(GetParam());
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  std::unique_ptr<comm::Communicator> comm_ = comm::make_self_communicator();
};
INSTANTIATE_TEST_SUITE_P(Devices, DeviceTopKSaeTest, ::testing::ValuesIn(testing::devices()),
                         [](const auto& param) { return std::string(device_name(param.param)); });

TEST_P(DeviceTopKSaeTest, StartsFromTheSameWeights) {
  TopKSae expected(small_config(), kDim);
  DeviceTopKSae actual(small_config(), kDim, {GetParam()});
  const at::Tensor sample = normal_values({64, kDim}, 1) + 0.5;
  expected.initialise(7, sample);
  actual.initialise(7, sample);
  for (std::size_t p = 0; p < 4; ++p) {
    EXPECT_TRUE(at::equal(actual.parameters()[p].weight.to(at::kCPU).contiguous(),
                          expected.parameters()[p].weight.contiguous()));
    EXPECT_EQ(actual.parameters()[p].weight.strides(), expected.parameters()[p].weight.strides());
  }
  EXPECT_TRUE(
      at::equal(buffer(actual, "mean_squared_input"), buffer(expected, "mean_squared_input")));
}

TEST_P(DeviceTopKSaeTest, HasTheSameGradientsFiguresAndFirings) {
  // No dead latents; fewer than aux_k; many more than aux_k.
  for (const std::int64_t dead_every : {0, 30, 2}) {
    Pair pair(small_config(), GetParam(), dead_every);
    pair.gradients(normal_values({kTokens, kDim}, 5) + 0.5, step_info(), *comm_);
    for (std::size_t p = 0; p < 4; ++p) {
      EXPECT_LE(relative_difference(pair.actual.parameters()[p].gradient.to(at::kCPU),
                                    pair.expected.parameters()[p].gradient),
                2e-6)
          << "parameter " << p << ", every " << dead_every;
    }
    const Json expected = pair.expected.finish_step(*comm_);
    expect_figures(pair.actual.finish_step(*comm_), expected, 1e-6);
    EXPECT_EQ(expected.at("aux_loss").as_double() > 0, dead_every > 0);
    EXPECT_TRUE(at::equal(buffer(pair.actual, "tokens_since_fired").to(at::kCPU),
                          buffer(pair.expected, "tokens_since_fired")));
  }
}

TEST_P(DeviceTopKSaeTest, WritesNoCounterBeforeFinishStep) {
  Pair pair(small_config(), GetParam(), 2);
  const at::Tensor before = buffer(pair.actual, "tokens_since_fired").clone();
  pair.gradients(normal_values({kTokens, kDim}, 5), step_info(), *comm_);
  EXPECT_TRUE(at::equal(buffer(pair.actual, "tokens_since_fired"), before));
  pair.actual.finish_step(*comm_);
  EXPECT_FALSE(at::equal(buffer(pair.actual, "tokens_since_fired"), before));
}

TEST_P(DeviceTopKSaeTest, CountsDeadLatentsAgainWhenTheirCountersWereRestored) {
  Pair pair(small_config(), GetParam(), 0);
  const at::Tensor x = normal_values({kTokens, kDim}, 5) + 0.5;
  pair.gradients(x, step_info(), *comm_);
  EXPECT_EQ(pair.actual.finish_step(*comm_).at("dead_latents").as_int(), 0);
  pair.expected.finish_step(*comm_);
  for (TrainingSae* sae :
       {static_cast<TrainingSae*>(&pair.expected), static_cast<TrainingSae*>(&pair.actual)}) {
    buffer(*sae, "tokens_since_fired").slice(0, 0, kLatents, 3).fill_(kWindow);
  }
  pair.gradients(x, step_info(1), *comm_);
  const Json expected = pair.expected.finish_step(*comm_);
  EXPECT_GT(expected.at("aux_loss").as_double(), 0);
  expect_figures(pair.actual.finish_step(*comm_), expected, 1e-6);
}

TEST_P(DeviceTopKSaeTest, FollowsAFallingK) {
  TopKConfig config = small_config();
  config.k_start = 20;
  config.k_anneal_tokens = 4 * kTokens;
  Pair pair(config, GetParam(), 2);
  for (const std::int64_t step : {0, 2, 5}) {
    pair.gradients(normal_values({kTokens, kDim}, 5) + 0.5, step_info(step), *comm_);
    const Json expected = pair.expected.finish_step(*comm_);
    const Json actual = pair.actual.finish_step(*comm_);
    EXPECT_EQ(actual.at("k").as_int(), expected.at("k").as_int());
    expect_figures(actual, expected, 1e-6);
  }
}

TEST_P(DeviceTopKSaeTest, MakesTheLossAndAGradientNanForANan) {
  for (const bool bfloat16 : {false, true}) {
    Pair pair(small_config(), GetParam(), 2, bfloat16);
    at::Tensor x = normal_values({kTokens, kDim}, 5);
    x[3][1] = std::numeric_limits<float>::quiet_NaN();
    pair.gradients(x, step_info(), *comm_);
    EXPECT_TRUE(pair.actual.parameters()[3].gradient.isnan().any().item<bool>());
    EXPECT_TRUE(std::isnan(pair.actual.finish_step(*comm_).at("loss").as_double()));
  }
}

TEST_P(DeviceTopKSaeTest, WithBfloat16OperandsStaysNearFloat32) {
  Pair pair(small_config(), GetParam(), 0, true);
  pair.gradients(normal_values({kTokens, kDim}, 5) + 0.5, step_info(), *comm_);
  const double expected = pair.expected.finish_step(*comm_).at("loss").as_double();
  const double actual = pair.actual.finish_step(*comm_).at("loss").as_double();
  EXPECT_NEAR(actual, expected, 0.02 * expected);
  EXPECT_NE(actual, expected) << "the operands were rounded";
}

TEST_P(DeviceTopKSaeTest, WithBfloat16OperandsHasGradientsNearFloat32) {
  Pair pair(small_config(), GetParam(), 2, true);
  // Weights that bfloat16 holds, so that both select the same latents up to the inputs' rounding.
  for (TrainingSae* sae :
       {static_cast<TrainingSae*>(&pair.expected), static_cast<TrainingSae*>(&pair.actual)}) {
    for (Parameter& parameter : sae->parameters()) {
      parameter.weight.copy_(parameter.weight.to(at::kBFloat16));
    }
    sae->parameters()[3].weight.zero_();
  }
  const at::Tensor x = normal_values({kTokens, kDim}, 5).to(at::kBFloat16).to(at::kFloat);
  pair.gradients(x, step_info(), *comm_);
  for (std::size_t p = 0; p < 4; ++p) {
    EXPECT_LE(relative_difference(pair.actual.parameters()[p].gradient.to(at::kCPU),
                                  pair.expected.parameters()[p].gradient),
              0.01)
        << "parameter " << p;
  }
  const Json expected = pair.expected.finish_step(*comm_);
  expect_figures(pair.actual.finish_step(*comm_), expected, 1e-5);
}

TEST_P(DeviceTopKSaeTest, RoundsTheEncoderAgainWhenItsWeightsWereReplaced) {
  Pair pair(small_config(), GetParam(), 0, true);
  const at::Tensor x = normal_values({kTokens, kDim}, 5) + 0.5;
  pair.gradients(x, step_info(), *comm_);
  const at::Tensor rounded = pair.actual.parameters()[0].bfloat16;
  EXPECT_TRUE(at::equal(rounded, pair.actual.parameters()[0].weight.to(at::kBFloat16)));
  pair.actual.parameters()[0].weight.mul_(-1.5);
  pair.gradients(x, step_info(1), *comm_);
  EXPECT_TRUE(at::equal(rounded, pair.actual.parameters()[0].weight.to(at::kBFloat16)));
}

TEST_P(DeviceTopKSaeTest, ExportsWhatTheOtherExports) {
  Pair pair(small_config(), GetParam(), 0);
  InputTransform transform;
  transform.centre.assign(kDim, 0.25);
  transform.scale = 1.5;
  const InferenceSae expected = pair.expected.to_inference(transform);
  const InferenceSae actual = pair.actual.to_inference(transform);
  EXPECT_EQ(actual.k, 7);
  EXPECT_TRUE(actual.W_enc.is_cpu());
  EXPECT_TRUE(at::equal(actual.W_enc, expected.W_enc));
  EXPECT_TRUE(at::equal(actual.b_enc, expected.b_enc));
  EXPECT_TRUE(at::equal(actual.W_dec, expected.W_dec));
  EXPECT_TRUE(at::equal(actual.b_dec, expected.b_dec));
}

TEST_P(DeviceTopKSaeTest, TwoRanksComputeTheStepOfOne) {
  const Device device = GetParam();
  const at::Tensor x = normal_values({kTokens, kDim}, 5) + 0.5;
  Pair one(small_config(), device, 2);
  one.gradients(x, step_info(), *comm_);
  const Json expected = one.expected.finish_step(*comm_);
  comm::run_thread_ranks(2, 30, [&](comm::Communicator& comm) {
    Pair mine(small_config(), device, 2);
    mine.gradients(testing::lane_rows(x, comm.rank(), 2), step_info(), comm);
    for (std::size_t p = 0; p < 4; ++p) {
      EXPECT_LE(relative_difference(mine.actual.parameters()[p].gradient.to(at::kCPU),
                                    one.expected.parameters()[p].gradient),
                2e-6);
    }
    mine.expected.finish_step(comm);
    expect_figures(mine.actual.finish_step(comm), expected, 1e-6);
    EXPECT_TRUE(at::equal(buffer(mine.actual, "tokens_since_fired").to(at::kCPU),
                          buffer(one.expected, "tokens_since_fired")));
  });
}

TEST(DeviceTrainingTest, SaysWhichVariantsCanBeTrainedOnCuda) {
  for (const std::string type : {"batch_topk", "relu_l1", "jumprelu"}) {
    const auto config = default_sae_config(type);
    config->name = "a";
    EXPECT_EQ(testing::first_line_of([&] {
                make_training_sae(*config, 8, {Device::kCuda, true});
              }),
              "sae a: type " + type + " cannot be trained on cuda");
  }
  const auto topk = default_sae_config("topk");
  topk->name = "a";
  EXPECT_EQ(testing::first_line_of([&] {
              make_training_sae(*topk, 8, {Device::kCpu, true});
            }),
            "sae a: train.operand_dtype = bfloat16: processors train in float32");
}

}  // namespace
}  // namespace thresher::sae
