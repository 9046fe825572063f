#include "sae/relu_l1_sae.h"

#include <gtest/gtest.h>

#include <cmath>
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

ReluL1Config small_config(const std::string& form = "april") {
  ReluL1Config config;
  config.form = form;
  config.use_form_defaults();
  config.name = "r";
  config.type = "relu_l1";
  config.hook_point = "blocks.0.hook_resid_post";
  config.n_latents = kLatents;
  config.l1_coefficient = kL1;
  config.sparsity_warmup_fraction = 0;
  if (form == "april") config.decoder_init_norm = 0.6;
  return config;
}

std::unique_ptr<ReluL1Sae> make_sae(const std::string& form = "april") {
  auto sae = std::make_unique<ReluL1Sae>(small_config(form), kDim);
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

at::Tensor loss_of(const std::string& form, const std::array<at::Tensor, 4>& p,
                   const at::Tensor& x) {
  const bool is_april = form == "april";
  const at::Tensor acts = (at::mm(is_april ? x : x - p[3], p[0]) + p[1]).relu();
  const at::Tensor recon = at::mm(acts, p[2]) + p[3];
  const at::Tensor norms =
      is_april ? p[2].square().sum(1).sqrt() : at::ones({kLatents}, p[2].options());
  return ((x - recon).square().sum() + kL1 * (acts * norms).sum()) / static_cast<double>(x.size(0));
}

/// The training formulas themselves, in float64, on the whole batch as one lane.
std::array<at::Tensor, 4> formulas(const std::string& form, const std::array<at::Tensor, 4>& p,
                                   const at::Tensor& x) {
  const auto n_tokens = static_cast<double>(x.size(0));
  const bool is_bricken = form == "bricken";
  const ReluL1Weights weights{p[0], p[1], p[2], p[3], p[2].norm(2, 1), is_bricken};
  ReluL1Lane lane;
  lane.x = is_bricken ? x - p[3] : x;
  relu_l1_forward(weights, lane);
  ReluL1Gradients gradients;
  relu_l1_backward(weights, lane, n_tokens, kL1, gradients);
  const at::Tensor b_enc = at::tensor(gradients.b_enc, at::kDouble);
  at::Tensor b_dec = at::tensor(gradients.b_dec, at::kDouble);
  if (is_bricken) {
    relu_l1_input_gradient(weights, b_enc, b_dec);
  } else {
    const at::Tensor sums = lane.latent_acts.sum(0);
    const auto* sum = sums.const_data_ptr<double>();
    relu_l1_norm_gradient(weights, {sum, sum + sums.numel()}, n_tokens, kL1, gradients.W_dec);
  }
  return {gradients.W_enc.t(), b_enc, gradients.W_dec, b_dec};
}

class ReluL1FormTest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Forms, ReluL1FormTest, ::testing::Values("april", "bricken"),
                         [](const auto& param_info) { return std::string(param_info.param); });

TEST_P(ReluL1FormTest, GradientsEqualCentralDifferencesAndAutograd) {
  const auto sae = make_sae(GetParam());
  const auto parameters = double_parameters(*sae);
  const at::Tensor x = normal_values({kTokens, kDim}, 5).to(at::kDouble);
  const auto loss = [&](const auto& p) { return loss_of(GetParam(), p, x); };
  const auto actual = formulas(GetParam(), parameters, x);
  const auto differences = central_differences(parameters, loss);
  const auto autograd = autograd_gradients(parameters, loss);
  for (std::size_t p = 0; p < 4; ++p) {
    EXPECT_LE(relative_difference(actual[p], differences[p]), 1e-6) << kNames[p];
    EXPECT_LE(relative_difference(actual[p], autograd[p]), 1e-12) << kNames[p];
  }
}

/// The l0 of the batch before, which decides between dense and sparse products.
void set_last_l0(TrainingSae& sae, double l0) {
  const auto buffers = sae.buffers();
  ASSERT_EQ(buffers.at(1).first, "last_l0");
  buffers.at(1).second.fill_(l0);
}

TEST_P(ReluL1FormTest, TrainingCodeEqualsTheFormulasForEveryLaneCount) {
  const at::Tensor x = normal_values({kTokens, kDim}, 5);
  for (const double last_l0 : {0.0, 1e9}) {
    for (const std::int64_t n_lanes : {1, 2, 8}) {
      const auto sae = make_sae(GetParam());
      set_last_l0(*sae, last_l0);
      const auto parameters = double_parameters(*sae);
      const auto expected = formulas(GetParam(), parameters, x.to(at::kDouble));
      const auto comm = comm::make_self_communicator();
      compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = 100}, x, n_lanes,
                        *comm);
      for (std::size_t p = 0; p < 4; ++p) {
        EXPECT_LE(relative_difference(sae->parameters()[p].gradient, expected[p]), 1e-5)
            << kNames[p] << ", lanes " << n_lanes << ", l0 before " << last_l0;
      }
      const Json figures = sae->finish_step(*comm);
      EXPECT_NEAR(figures.at("loss").as_double(),
                  loss_of(GetParam(), parameters, x.to(at::kDouble)).item<double>(), 1e-4);
    }
  }
}

TEST_P(ReluL1FormTest, SparseAndDenseStepsAgreeInAllFigures) {
  const at::Tensor x = normal_values({kTokens, kDim}, 5);
  std::vector<Json> figures;
  for (const double last_l0 : {0.0, 1e9}) {
    const auto sae = make_sae(GetParam());
    set_last_l0(*sae, last_l0);
    sae->parameters()[1].weight.slice(0, 3, 6).fill_(-100);  // dead: resampled by bricken
    const auto comm = comm::make_self_communicator();
    for (std::int64_t step = 0; step < 2; ++step) {
      compute_gradients(*sae,
                        {.step = step,
                         .tokens_before = step * kTokens,
                         .total_tokens = 10 * kTokens,
                         .batch_tokens = kTokens,
                         .dead_window_tokens = kTokens},
                        x, 2, *comm);
      figures.push_back(sae->finish_step(*comm));
      EXPECT_EQ(sae->buffers().at(1).second.item<double>(), figures.back().at("l0").as_double());
      set_last_l0(*sae, last_l0);
    }
    figures.push_back(Json(static_cast<double>(sae->parameters()[2].weight.sum().item<float>())));
  }
  for (std::size_t i = 0; i < 2; ++i) {
    for (const char* key : {"loss", "reconstruction_loss", "sparsity_loss", "batch_fvu", "l0"}) {
      EXPECT_NEAR(figures[i].at(key).as_double(), figures[i + 3].at(key).as_double(), 1e-5) << key;
    }
    EXPECT_EQ(figures[i].at("dead_latents").as_int(), figures[i + 3].at("dead_latents").as_int());
  }
  EXPECT_NEAR(figures[2].as_double(), figures[5].as_double(), 1e-4) << "resampled rows";
  if (std::string(GetParam()) == "bricken") {
    EXPECT_GT(figures[0].at("resampled_latents").as_int(), 0);
  }
}

TEST_P(ReluL1FormTest, ShowsNanInTheLossOfASparseStep) {
  const auto sae = make_sae(GetParam());
  set_last_l0(*sae, 0);
  sae->parameters()[1].weight[2] = std::nan("");
  const auto comm = comm::make_self_communicator();
  compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = 100},
                    normal_values({kTokens, kDim}, 5), 2, *comm);
  EXPECT_TRUE(std::isnan(sae->parameters()[3].gradient.sum().item<float>()));
  EXPECT_TRUE(std::isnan(sae->finish_step(*comm).at("loss").as_double()));
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
  EXPECT_EQ(config.l1_at(0, 1000), 0.0);
  EXPECT_EQ(config.l1_at(25, 1000), 4.0);
  EXPECT_EQ(config.l1_at(50, 1000), 8.0);
  EXPECT_EQ(config.l1_at(999, 1000), 8.0);
  config.sparsity_warmup_tokens = 100;
  EXPECT_EQ(config.l1_at(25, 1000), 2.0);
  config.sparsity_warmup_tokens.reset();
  config.sparsity_warmup_fraction = 0;
  EXPECT_EQ(config.l1_at(0, 1000), 8.0);
}

TEST(ReluL1SaeTest, LowersThePenaltyToItsFloor) {
  ReluL1Config config = small_config();
  config.l1_coefficient = 8;
  config.sparsity_decay_tokens = 400;
  config.sparsity_floor = 0.25;
  EXPECT_EQ(config.l1_at(600, 1000), 8.0);
  EXPECT_EQ(config.l1_at(800, 1000), 5.0);
  EXPECT_EQ(config.l1_at(1000, 1000), 2.0);
  config.sparsity_decay_shape = "cosine";
  EXPECT_NEAR(config.l1_at(800, 1000), 5.0, 1e-12);
  EXPECT_NEAR(config.l1_at(700, 1000), 2 + 6 * (1 + std::sqrt(0.5)) / 2, 1e-12);
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

TEST(ReluL1SaeTest, StartsBrickenWithUnitRowsThatReconstructTheInputsNorm) {
  ReluL1Sae sae(small_config("bricken"), kDim);
  const at::Tensor sample = normal_values({64, kDim}, 1) + 2;
  sae.initialise(7, sample);
  const auto& p = sae.parameters();
  EXPECT_LE((p[2].weight.norm(2, 1) - 1).abs().max().item<double>(), 1e-6);
  const at::Tensor centred = sample - p[3].weight;
  EXPECT_LE((p[3].weight - 2).abs().max().item<double>(), 0.5) << "b_dec: the geometric median";
  const at::Tensor recon = at::mm(at::mm(centred, p[0].weight).relu(), p[2].weight);
  EXPECT_NEAR(recon.norm(2, 1).mean().item<double>() / centred.norm(2, 1).mean().item<double>(), 1,
              1e-5);
  const at::Tensor ratio = p[0].weight / p[2].weight.t();
  EXPECT_LE((ratio - ratio[0][0]).abs().max().item<double>(), 1e-5 * ratio[0][0].item<double>());
}

TEST(ReluL1SaeTest, KeepsTheDecoderRowsOfBrickenAtUnitNorm) {
  const auto sae = make_sae("bricken");
  const auto comm = comm::make_self_communicator();
  testing::train(*sae, 5, kTokens, 1000, 4, *comm);
  const at::Tensor norms = sae->parameters()[2].weight.norm(2, 1);
  EXPECT_LE((norms - 1).abs().max().item<double>(), 1e-6);
}

}  // namespace
}  // namespace thresher::sae
