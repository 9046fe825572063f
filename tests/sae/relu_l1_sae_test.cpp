#include "sae/relu_l1_sae.h"

#include <gtest/gtest.h>

#include <memory>

#include "tests/sae/sae_testing.h"
#include "tests/sae/topk_reference.h"

namespace thresher::sae {
namespace {

using testing::autograd_gradients;
using testing::central_differences;
using testing::compute_gradients;
using testing::normal_values;
using testing::relative_difference;

constexpr std::int64_t kDim = 6;
constexpr std::int64_t kLatents = 14;
constexpr std::int64_t kTokens = 16;
constexpr double kL1 = 0.7;
const char* const kNames[] = {"W_enc", "b_enc", "W_dec", "b_dec"};

ReluL1Config small_config() {
  ReluL1Config config;
  config.name = "r";
  config.type = "relu_l1";
  config.hook_point = "blocks.0.hook_resid_post";
  config.n_latents = kLatents;
  config.l1_coefficient = kL1;
  config.sparsity_warmup_fraction = 0;
  config.decoder_init_norm = 0.6;
  return config;
}

std::unique_ptr<ReluL1Sae> make_sae() {
  auto sae = std::make_unique<ReluL1Sae>(small_config(), kDim);
  sae->initialise(7, normal_values({64, kDim}, 1));
  auto& parameters = sae->parameters();
  parameters[0].weight.add_(normal_values({kDim, kLatents}, 2), 0.2);
  parameters[1].weight.add_(normal_values({kLatents}, 3), 0.3);
  parameters[2].weight.add_(normal_values({kLatents, kDim}, 6), 0.2);
  parameters[3].weight.add_(normal_values({kDim}, 4), 0.2);
  return sae;
}

std::array<at::Tensor, 4> double_parameters(TrainingSae& sae) {
  std::array<at::Tensor, 4> out;
  for (std::size_t p = 0; p < 4; ++p) out[p] = sae.parameters()[p].weight.to(at::kDouble);
  return out;
}

at::Tensor loss_of(const std::array<at::Tensor, 4>& p, const at::Tensor& x) {
  const at::Tensor acts = (at::mm(x, p[0]) + p[1]).relu();
  const at::Tensor recon = at::mm(acts, p[2]) + p[3];
  const at::Tensor norms = p[2].square().sum(1).sqrt();
  return ((x - recon).square().sum() + kL1 * (acts * norms).sum()) / static_cast<double>(x.size(0));
}

/// The training formulas themselves, in float64, on the whole batch as one lane.
std::array<at::Tensor, 4> formulas(const std::array<at::Tensor, 4>& p, const at::Tensor& x) {
  const auto n_tokens = static_cast<double>(x.size(0));
  const ReluL1Weights weights{p[0], p[1], p[2], p[3], p[2].norm(2, 1)};
  ReluL1Lane lane;
  lane.x = x;
  relu_l1_forward(weights, lane);
  ReluL1Gradients gradients;
  relu_l1_backward(weights, lane, n_tokens, kL1, gradients);
  const at::Tensor sums = lane.latent_acts.sum(0);
  const auto* sum = sums.const_data_ptr<double>();
  relu_l1_norm_gradient(weights, {sum, sum + sums.numel()}, n_tokens, kL1, gradients.W_dec);
  return {gradients.W_enc, at::tensor(gradients.b_enc, at::kDouble), gradients.W_dec,
          at::tensor(gradients.b_dec, at::kDouble)};
}

TEST(ReluL1SaeTest, GradientsEqualCentralDifferencesAndAutograd) {
  const auto sae = make_sae();
  const auto parameters = double_parameters(*sae);
  const at::Tensor x = normal_values({kTokens, kDim}, 5).to(at::kDouble);
  const auto loss = [&](const auto& p) { return loss_of(p, x); };
  const auto actual = formulas(parameters, x);
  const auto differences = central_differences(parameters, loss);
  const auto autograd = autograd_gradients(parameters, loss);
  for (std::size_t p = 0; p < 4; ++p) {
    EXPECT_LE(relative_difference(actual[p], differences[p]), 1e-6) << kNames[p];
    EXPECT_LE(relative_difference(actual[p], autograd[p]), 1e-12) << kNames[p];
  }
}

TEST(ReluL1SaeTest, TrainingCodeEqualsTheFormulasForEveryLaneCount) {
  const at::Tensor x = normal_values({kTokens, kDim}, 5);
  for (const std::int64_t n_lanes : {1, 2, 8}) {
    const auto sae = make_sae();
    const auto parameters = double_parameters(*sae);
    const auto expected = formulas(parameters, x.to(at::kDouble));
    const auto comm = comm::make_self_communicator();
    compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = 100}, x, n_lanes,
                      *comm);
    for (std::size_t p = 0; p < 4; ++p) {
      EXPECT_LE(relative_difference(sae->parameters()[p].gradient, expected[p]), 1e-5)
          << kNames[p] << ", lanes " << n_lanes;
    }
    const Json figures = sae->finish_step(*comm);
    EXPECT_NEAR(figures.at("loss").as_double(),
                loss_of(parameters, x.to(at::kDouble)).item<double>(), 1e-4);
  }
}

TEST(ReluL1SaeTest, GivesAZeroDecoderRowNoNormGradient) {
  const auto sae = make_sae();
  sae->parameters()[2].weight[3].zero_();
  const auto comm = comm::make_self_communicator();
  compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = 100},
                    normal_values({kTokens, kDim}, 5), 2, *comm);
  for (const Parameter& parameter : sae->parameters()) {
    EXPECT_TRUE(at::isfinite(parameter.gradient).all().item<bool>()) << parameter.name;
  }
}

TEST(ReluL1SaeTest, WarmsThePenaltyUpInTokens) {
  ReluL1Config config = small_config();
  config.l1_coefficient = 8;
  config.sparsity_warmup_fraction = 0.05;
  const ReluL1Sae sae(config, kDim);
  EXPECT_EQ(sae.l1_at(0, 1000), 0.0);
  EXPECT_EQ(sae.l1_at(25, 1000), 4.0);
  EXPECT_EQ(sae.l1_at(50, 1000), 8.0);
  EXPECT_EQ(sae.l1_at(999, 1000), 8.0);
  config.sparsity_warmup_fraction = 0;
  EXPECT_EQ(ReluL1Sae(config, kDim).l1_at(0, 1000), 8.0);
}

TEST(ReluL1SaeTest, StartsTiedWithSmallDecoderRowsAndZeroBiases) {
  ReluL1Config config = small_config();
  config.decoder_init_norm = 0.1;
  ReluL1Sae sae(config, kDim);
  sae.initialise(7, normal_values({64, kDim}, 1) + 2);
  const auto& parameters = sae.parameters();
  EXPECT_LE((parameters[2].weight.norm(2, 1) - 0.1).abs().max().item<double>(), 1e-7);
  EXPECT_TRUE(at::equal(parameters[0].weight, parameters[2].weight.t()));
  EXPECT_EQ(parameters[1].weight.abs().max().item<double>(), 0.0);
  EXPECT_EQ(parameters[3].weight.abs().max().item<double>(), 0.0);
}

TEST(ReluL1SaeTest, LeavesDecoderNormsFree) {
  const auto sae = make_sae();
  const auto comm = comm::make_self_communicator();
  testing::train(*sae, 5, kTokens, 32, 4, *comm);
  const at::Tensor norms = sae->parameters()[2].weight.norm(2, 1);
  EXPECT_GT((norms - 1).abs().max().item<double>(), 1e-2);
}

}  // namespace
}  // namespace thresher::sae
