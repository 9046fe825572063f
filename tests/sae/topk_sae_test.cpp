#include "sae/topk_sae.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/error.h"
#include "tests/sae/sae_testing.h"
#include "tests/sae/topk_reference.h"

namespace thresher::sae {
namespace {

using testing::autograd_gradients;
using testing::central_differences;
using testing::compute_gradients;
using testing::first_line_of;
using testing::normal_values;
using testing::relative_difference;
using testing::TopKReference;

constexpr std::int64_t kDim = 6;
constexpr std::int64_t kLatents = 14;
constexpr std::int64_t kTokens = 16;
constexpr std::int64_t kWindow = 1000;
const char* const kNames[] = {"W_enc", "b_enc", "W_dec", "b_dec"};

TopKConfig small_config() {
  TopKConfig config;
  config.name = "a";
  config.type = "topk";
  config.hook_point = "blocks.0.hook_resid_post";
  config.n_latents = kLatents;
  config.k = 4;
  config.aux_k = 3;
  config.aux_coefficient = 0.5;
  return config;
}

at::Tensor buffer(TrainingSae& sae, const std::string& name) {
  for (const auto& [key, tensor] : sae.buffers()) {
    if (key == name) return tensor;
  }
  throw InternalError("no buffer " + name);
}

/// An SAE somewhere in mid-training, with the given latents dead.
std::unique_ptr<TopKSae> make_sae(const TopKConfig& config, const std::vector<std::int64_t>& dead) {
  auto sae = std::make_unique<TopKSae>(config, kDim);
  sae->initialise(7, normal_values({64, kDim}, 1) + 0.5);
  auto& parameters = sae->parameters();
  parameters[0].weight.add_(normal_values({kDim, kLatents}, 2), 0.2);
  parameters[1].weight.add_(normal_values({kLatents}, 3), 0.3);
  parameters[3].weight.add_(normal_values({kDim}, 4), 0.2);
  for (const std::int64_t latent : dead) buffer(*sae, "tokens_since_fired")[latent] = kWindow;
  return sae;
}

TopKReference reference_of(TopKSae& sae, const at::Tensor& x,
                           const std::vector<std::int64_t>& dead) {
  const auto& config = dynamic_cast<const TopKConfig&>(sae.config());
  TopKReference reference;
  for (std::size_t p = 0; p < 4; ++p) {
    reference.parameters[p] = sae.parameters()[p].weight.to(at::kDouble).contiguous();
  }
  reference.x = x.to(at::kDouble);
  reference.mean_squared_input = buffer(sae, "mean_squared_input").item<double>();
  reference.aux_weight =
      dead.empty() ? 0
                   : config.aux_coefficient * std::min(1.0, static_cast<double>(dead.size()) /
                                                                static_cast<double>(*config.aux_k));
  reference.select(config.k, *config.aux_k, dead);
  return reference;
}

// No dead latents; fewer than aux_k; more than aux_k (some of them selected by TopK as well); one;
// all; so many that AuxK's pairs are few among them.
const std::vector<std::vector<std::int64_t>> kDeadSets = {
    {},
    {2, 9},
    {0, 1, 3, 5, 8, 11, 13},
    {4},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13},
    {0, 1, 3, 5, 6, 8, 10, 11, 12, 13}};
constexpr std::size_t kManyDead = 5;

TopKConfig config_for(std::size_t dead_set) {
  TopKConfig config = small_config();
  if (dead_set == kManyDead) config.aux_k = 1;
  return config;
}

class TopKGradientTest : public ::testing::TestWithParam<std::size_t> {};
INSTANTIATE_TEST_SUITE_P(DeadSets, TopKGradientTest, ::testing::Values(0, 1, 2, 3, 4, 5));

TEST_P(TopKGradientTest, FormulasEqualCentralDifferencesAndAutograd) {
  const auto& dead = kDeadSets[GetParam()];
  const auto sae = make_sae(config_for(GetParam()), dead);
  const TopKReference reference = reference_of(*sae, normal_values({kTokens, kDim}, 5) + 0.5, dead);
  const auto loss = [&](const auto& parameters) { return reference.loss(parameters); };
  const auto formulas = reference.gradients();
  const auto differences = central_differences(reference.parameters, loss);
  const auto autograd = autograd_gradients(reference.parameters, loss);
  for (std::size_t p = 0; p < 4; ++p) {
    EXPECT_LE(relative_difference(formulas[p], differences[p]), 1e-6) << kNames[p];
    EXPECT_LE(relative_difference(formulas[p], autograd[p]), 1e-12) << kNames[p];
  }
}

TEST_P(TopKGradientTest, TrainingCodeEqualsTheFormulasForEveryLaneCount) {
  const auto& dead = kDeadSets[GetParam()];
  const at::Tensor x = normal_values({kTokens, kDim}, 5) + 0.5;
  for (const std::int64_t n_lanes : {1, 2, 8}) {
    const auto sae = make_sae(config_for(GetParam()), dead);
    const TopKReference reference = reference_of(*sae, x, dead);
    const auto expected = reference.gradients();
    const auto comm = comm::make_self_communicator();
    compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = kWindow}, x, n_lanes,
                      *comm);
    for (std::size_t p = 0; p < 4; ++p) {
      EXPECT_LE(relative_difference(sae->parameters()[p].gradient, expected[p]), 1e-5)
          << kNames[p] << ", lanes " << n_lanes;
    }
    const Json figures = sae->finish_step(*comm);
    EXPECT_NEAR(figures.at("loss").as_double(), reference.loss_value(), 1e-5);
  }
}

TEST(TopKSaeTest, AddsBothGradientsOfADeadLatentThatComesBack) {
  // Every latent is dead and all of AuxK's are its own: what TopK selects, AuxK selects as well.
  const auto& dead = kDeadSets[4];
  TopKConfig config = small_config();
  config.k = config.aux_k.emplace(kLatents);
  const at::Tensor x = normal_values({kTokens, kDim}, 5) + 0.5;
  const auto comm = comm::make_self_communicator();
  const auto sae = make_sae(config, dead);
  const TopKReference reference = reference_of(*sae, x, dead);
  ASSERT_TRUE(at::equal(reference.main_mask, reference.aux_mask));
  const auto expected = reference.gradients();
  compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = kWindow}, x, 4, *comm);
  for (std::size_t p = 0; p < 4; ++p) {
    EXPECT_LE(relative_difference(sae->parameters()[p].gradient, expected[p]), 1e-5) << kNames[p];
  }
  const Json figures = sae->finish_step(*comm);
  EXPECT_EQ(figures.at("dead_latents").as_int(), 0);
  EXPECT_GT(figures.at("aux_loss").as_double(), 0.0);
}

TEST(TopKSaeTest, LeavesTheGradientsOfLiveLatentsAlone) {
  const at::Tensor x = normal_values({kTokens, kDim}, 5) + 0.5;
  const auto comm = comm::make_self_communicator();
  const StepInfo info{.batch_tokens = kTokens, .dead_window_tokens = kWindow};
  TopKConfig without_aux = small_config();
  without_aux.aux_coefficient = 0;
  const auto& dead = kDeadSets[2];
  const auto sae = make_sae(small_config(), dead), other = make_sae(without_aux, dead);
  compute_gradients(*sae, info, x, 4, *comm);
  compute_gradients(*other, info, x, 4, *comm);
  const at::Tensor W_dec = sae->parameters()[2].gradient, W_enc = sae->parameters()[0].gradient;
  for (std::int64_t i = 0; i < kLatents; ++i) {
    const bool is_dead = std::find(dead.begin(), dead.end(), i) != dead.end();
    if (is_dead) continue;
    EXPECT_TRUE(at::equal(W_dec[i], other->parameters()[2].gradient[i])) << "latent " << i;
    EXPECT_TRUE(at::equal(W_enc.select(1, i), other->parameters()[0].gradient.select(1, i)))
        << "latent " << i;
  }
}

TEST(TopKSaeTest, ReachesTheEncoderThroughAuxK) {
  // Without the main loss (V huge) only AuxK is left, and it must move the dead latents' encoder
  // rows.
  const auto& dead = kDeadSets[1];
  const at::Tensor x = normal_values({kTokens, kDim}, 5) + 0.5;
  const auto sae = make_sae(small_config(), dead);
  buffer(*sae, "mean_squared_input").fill_(1e30);
  const auto comm = comm::make_self_communicator();
  compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = kWindow}, x, 2, *comm);
  const at::Tensor columns = sae->parameters()[0].gradient.norm(2, 0);
  for (std::int64_t i = 0; i < kLatents; ++i) {
    const bool is_dead = i == 2 || i == 9;
    EXPECT_EQ(columns[i].item<double>() > 1e-6, is_dead) << "latent " << i;
  }
}

TEST(TopKSaeTest, CountsAuxLossAsZeroWhenTheErrorDoesNotVary) {
  TopKConfig config = small_config();
  const auto sae = make_sae(config, {2, 9});
  const at::Tensor x = (normal_values({1, kDim}, 5)).expand({kTokens, kDim}).contiguous();
  const auto comm = comm::make_self_communicator();
  compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = kWindow}, x, 2, *comm);
  for (const Parameter& parameter : sae->parameters()) {
    EXPECT_TRUE(at::isfinite(parameter.gradient).all().item<bool>()) << parameter.name;
  }
  const Json figures = sae->finish_step(*comm);
  EXPECT_EQ(figures.at("aux_loss").as_double(), 0.0);
}

TEST(TopKSaeTest, KeepsDecoderRowsAtUnitNorm) {
  TopKSae sae(small_config(), kDim);
  sae.initialise(7, normal_values({64, kDim}, 1));
  const auto comm = comm::make_self_communicator();
  testing::train(sae, 5, kTokens, 32, 4, *comm);
  const at::Tensor norms = sae.parameters()[2].weight.to(at::kDouble).norm(2, 1);
  EXPECT_LE((norms - 1).abs().max().item<double>(), 1e-6);
}

TEST(TopKSaeTest, CountsSilenceInGlobalTokens) {
  const auto sae = make_sae(small_config(), {});
  const auto comm = comm::make_self_communicator();
  sae->parameters()[1].weight[5] = -100;  // never selected
  sae->parameters()[1].weight[6] = 100;   // always
  const at::Tensor x = normal_values({kTokens, kDim}, 5);
  const StepInfo info{.batch_tokens = kTokens, .dead_window_tokens = 40};
  const at::Tensor silent = buffer(*sae, "tokens_since_fired");
  std::vector<std::int64_t> dead;
  for (int step = 0; step < 3; ++step) {
    compute_gradients(*sae, info, x, 2, *comm);
    dead.push_back(sae->finish_step(*comm).at("dead_latents").as_int());
    EXPECT_EQ(silent[5].item<std::int64_t>(), (step + 1) * kTokens);
    EXPECT_EQ(silent[6].item<std::int64_t>(), 0);
  }
  EXPECT_EQ(dead[1], 0);  // 32 tokens
  EXPECT_GE(dead[2], 1);  // 48 tokens
}

TEST(TopKSaeTest, DoesNotCountAuxKAsFiring) {
  TopKConfig config = small_config();
  config.k = 1;
  const auto sae = make_sae(config, {2, 9});
  sae->parameters()[1].weight[6] = 100;  // selected for every token
  const auto comm = comm::make_self_communicator();
  compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = kWindow},
                    normal_values({kTokens, kDim}, 5), 2, *comm);
  const Json figures = sae->finish_step(*comm);
  EXPECT_GT(figures.at("aux_loss").as_double(), 0.0);
  EXPECT_EQ(figures.at("l0").as_double(), 1.0);
  EXPECT_EQ(figures.at("dead_latents").as_int(), 2);
}

TEST(TopKSaeTest, ShowsNanInTheLoss) {
  const auto sae = make_sae(small_config(), {});
  at::Tensor x = normal_values({kTokens, kDim}, 5);
  x[3][2] = std::nan("");
  const auto comm = comm::make_self_communicator();
  compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = kWindow}, x, 2, *comm);
  EXPECT_TRUE(std::isnan(sae->finish_step(*comm).at("loss").as_double()));
}

TEST(TopKSaeTest, StartsWithUnitDecoderTiedEncoderAndMatchingNorms) {
  TopKConfig config = small_config();
  TopKSae sae(config, kDim);
  const at::Tensor sample = normal_values({256, kDim}, 1) * 2 + 3;
  sae.initialise(7, sample);
  const at::Tensor W_enc = sae.parameters()[0].weight;
  const at::Tensor W_dec = sae.parameters()[2].weight;
  EXPECT_LE((W_dec.norm(2, 1) - 1).abs().max().item<double>(), 1e-6);
  EXPECT_EQ(sae.parameters()[1].weight.abs().max().item<double>(), 0.0);
  // Tied up to one factor.
  const double factor = (W_enc[0][0] / W_dec[0][0]).item<double>();
  EXPECT_LE((W_enc.t() - W_dec * factor).abs().max().item<double>(), 1e-5 * std::abs(factor));
  // ... which makes the reconstruction as long as the input, about b_dec.
  const InferenceSae inference = sae.to_inference({std::vector<double>(kDim, 0.0), 1.0});
  const at::Tensor b_dec = sae.parameters()[3].weight;
  const double input = (sample - b_dec).norm(2, 1).mean().item<double>();
  const double recon = (inference.reconstruct(sample) - b_dec).norm(2, 1).mean().item<double>();
  EXPECT_NEAR(recon / input, 1, 1e-4);
}

TEST(TopKSaeTest, StartsTheSameForTheSameSeedOnly) {
  const at::Tensor sample = normal_values({64, kDim}, 1);
  TopKSae a(small_config(), kDim), b(small_config(), kDim), c(small_config(), kDim);
  a.initialise(7, sample);
  b.initialise(7, sample);
  c.initialise(8, sample);
  EXPECT_EQ(testing::state_bytes(a), testing::state_bytes(b));
  EXPECT_NE(testing::state_bytes(a), testing::state_bytes(c));
}

TEST(TopKSaeTest, NormalisesTheLossByTheInputsMeanSquare) {
  TopKConfig config = small_config();
  config.scale_inputs = false;
  TopKSae unscaled(config, kDim);
  unscaled.initialise(7, at::full({10, kDim}, 2.0, at::kFloat));
  EXPECT_EQ(buffer(unscaled, "mean_squared_input").item<double>(), 4.0 * kDim);
  TopKSae scaled(small_config(), kDim);
  scaled.initialise(7, at::full({10, kDim}, 2.0, at::kFloat));
  EXPECT_EQ(buffer(scaled, "mean_squared_input").item<double>(), 1.0 * kDim);
}

TEST(TopKSaeTest, KeepsWEncLatentMajorInMemory) {
  TopKSae sae(small_config(), kDim);
  for (const at::Tensor& tensor : {sae.parameters()[0].weight, sae.parameters()[0].gradient}) {
    EXPECT_EQ(tensor.sizes(), (at::IntArrayRef{kDim, kLatents}));
    EXPECT_EQ(tensor.strides(), (at::IntArrayRef{1, kDim}));
    EXPECT_EQ(at::zeros_like(tensor).strides(), tensor.strides());
  }
}

TEST(TopKSaeTest, RefusesMoreLatentsThanThereAre) {
  TopKConfig config = small_config();
  config.k = 15;
  EXPECT_EQ(first_line_of([&] { make_training_sae(config, kDim); }),
            "sae a: k 15 is above the dictionary size 14");
  config.k = 4;
  config.aux_k = 15;
  EXPECT_EQ(first_line_of([&] { make_training_sae(config, kDim); }),
            "sae a: aux_k 15 is above the dictionary size 14");
}

}  // namespace
}  // namespace thresher::sae
