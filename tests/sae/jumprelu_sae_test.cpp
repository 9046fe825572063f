#include "sae/jumprelu_sae.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "kernels/parallel.h"
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
constexpr std::int64_t kTokens = 32;
const char* const kNames[] = {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"};
using Parameters = std::array<at::Tensor, 5>;

struct Case {
  const char* recipe;
  const char* threshold_parameter;
};

JumpReluConfig small_config(const std::string& recipe, const std::string& parameter) {
  JumpReluConfig config;
  config.recipe = recipe;
  config.use_form_defaults();
  config.name = "j";
  config.type = "jumprelu";
  config.hook_point = "blocks.0.hook_resid_post";
  config.n_latents = kLatents;
  config.threshold_parameter = parameter;
  config.sparsity_coefficient = 0.7;
  config.sparsity_warmup_fraction = 0;
  config.bandwidth = 0.6;
  config.initial_threshold = 0.4;
  config.target_l0 = 3;
  config.tanh_scale = 1.3;
  config.pre_act_coefficient = 0.02;
  return config;
}

std::unique_ptr<JumpReluSae> make_sae(const JumpReluConfig& config,
                                      const JumpReluLimits& limits = {}) {
  auto sae = std::make_unique<JumpReluSae>(config, kDim, limits);
  sae->initialise(7, normal_values({64, kDim}, 1));
  auto& parameters = sae->parameters();
  parameters[0].weight.copy_(normal_values({kDim, kLatents}, 2) * 0.4);
  parameters[1].weight.add_(normal_values({kLatents}, 3), 0.3);
  parameters[2].weight.add_(normal_values({kLatents, kDim}, 6), 0.2);
  parameters[3].weight.add_(normal_values({kDim}, 4), 0.2);
  parameters[4].weight.add_(normal_values({kLatents}, 8), 0.1);
  return sae;
}

Parameters double_parameters(TrainingSae& sae) {
  Parameters out;
  for (std::size_t p = 0; p < 5; ++p) out[p] = sae.parameters()[p].weight.to(at::kDouble);
  return out;
}

/// The loss near given parameters, with a derivative there that is the straight-through one: what
/// is active and what is in the window stays as it was, and where the written formulas put a slope,
/// the step and the jump are continued by a straight line of that slope.
class Reference {
 public:
  Reference(const JumpReluConfig& config, const Parameters& at, at::Tensor x)
      : config_(config), x_(std::move(x)), z0_(pre_acts(at)), theta0_(theta(at)) {
    active_ = z0_.gt(theta0_).to(at::kDouble);
    window_ = (z0_ - theta0_).abs().lt(0.5 * config.bandwidth).to(at::kDouble) / config.bandwidth;
  }

  at::Tensor loss(const Parameters& p) const {
    const auto n_tokens = static_cast<double>(x_.size(0));
    const at::Tensor z = pre_acts(p), t = theta(p);
    // dH/dtheta = -K / eps; dH/dz = K / eps only for anthropic.
    at::Tensor moved = theta0_ - t;
    if (config_.is_anthropic()) moved = moved + (z - z0_);
    const at::Tensor step = active_ + window_ * moved;
    const at::Tensor f = z * active_ + theta0_ * window_ * moved;
    const at::Tensor recon = at::mm(f, p[2]) + p[3];
    const at::Tensor error = (x_ - recon).square().sum() / n_tokens;
    const double lambda = config_.sparsity_coefficient;
    const at::Tensor l0 = step.sum() / n_tokens;
    if (config_.recipe == "gdm") return error + lambda * l0;
    if (config_.recipe == "target_l0")
      return error + lambda * (l0 / config_.target_l0 - 1).square();
    const at::Tensor norms = p[2].square().sum(1).sqrt();
    const at::Tensor penalty = (config_.tanh_scale * f * norms).tanh().sum();
    const at::Tensor silent = ((t - z).relu() * norms).sum();
    return error + (lambda * penalty + config_.pre_act_coefficient * silent) / n_tokens;
  }
  const at::Tensor& active() const { return active_; }
  const at::Tensor& window() const { return window_; }

 private:
  at::Tensor pre_acts(const Parameters& p) const { return at::mm(x_, p[0]) + p[1]; }
  at::Tensor theta(const Parameters& p) const {
    return config_.has_log_threshold() ? p[4].exp() : p[4];
  }

  JumpReluConfig config_;
  at::Tensor x_, z0_, theta0_, active_, window_;
};

class JumpReluRecipeTest : public ::testing::TestWithParam<Case> {
 protected:
  JumpReluConfig config() const {
    return small_config(GetParam().recipe, GetParam().threshold_parameter);
  }
};
INSTANTIATE_TEST_SUITE_P(Recipes, JumpReluRecipeTest,
                         ::testing::Values(Case{"gdm", "direct"}, Case{"gdm", "log"},
                                           Case{"target_l0", "direct"}, Case{"target_l0", "log"},
                                           Case{"anthropic", "log"}, Case{"anthropic", "direct"}),
                         [](const auto& param_info) {
                           return std::string(param_info.param.recipe) + "_" +
                                  param_info.param.threshold_parameter;
                         });

TEST_P(JumpReluRecipeTest, GradientsEqualAutogradAndCentralDifferencesForEveryLaneCount) {
  const at::Tensor x = normal_values({kTokens, kDim}, 5);
  const Parameters parameters = double_parameters(*make_sae(config()));
  const Reference reference(config(), parameters, x.to(at::kDouble));
  // The case is one: the window has pairs on both sides, and there are others.
  const at::Tensor in_window = reference.window().gt(0);
  const auto count = [](const at::Tensor& what) { return what.sum().item<double>(); };
  ASSERT_GT(count(in_window * reference.active()), 5);
  ASSERT_GT(count(in_window * (1 - reference.active())), 5);
  ASSERT_GT(count(in_window.logical_not() * reference.active()), 5);

  const auto loss = [&](const Parameters& p) { return reference.loss(p); };
  const double expected_loss = loss(parameters).item<double>();
  const Parameters expected = autograd_gradients(parameters, loss);
  const Parameters differences = central_differences(parameters, loss);
  for (std::size_t p = 0; p < 5; ++p) {
    EXPECT_LE(relative_difference(expected[p], differences[p]), 1e-6) << kNames[p];
  }
  for (const std::int64_t n_lanes : {1, 2, 8}) {
    const auto sae = make_sae(config());
    const auto comm = comm::make_self_communicator();
    compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = 100}, x, n_lanes,
                      *comm);
    for (std::size_t p = 0; p < 5; ++p) {
      EXPECT_LE(relative_difference(sae->parameters()[p].gradient, expected[p]), 1e-5)
          << kNames[p] << ", lanes " << n_lanes;
    }
    const Json figures = sae->finish_step(*comm);
    EXPECT_NEAR(figures.at("loss").as_double(), expected_loss, 1e-5 * expected_loss);
    EXPECT_NEAR(figures.at("l0").as_double(), count(reference.active()) / kTokens, 1e-12);
  }
}

struct Trained {
  std::string state;
  std::vector<std::string> lines;
};

Trained train(const JumpReluConfig& config, const JumpReluLimits& limits, std::int64_t n_lanes) {
  const auto sae = make_sae(config, limits);
  const auto comm = comm::make_self_communicator();
  Trained out;
  out.lines = testing::train(*sae, 6, kTokens, 100, n_lanes, *comm);
  out.state = testing::state_bytes(*sae);
  return out;
}

TEST_P(JumpReluRecipeTest, KeepingPairsOrComputingThemAgainGivesTheSameBits) {
  for (const std::int64_t chunk_pairs : {1 << 22, 40}) {
    const Trained kept = train(config(), {chunk_pairs, std::int64_t{1} << 24}, 4);
    const Trained again = train(config(), {chunk_pairs, 0}, 4);
    const Trained changing = train(config(), {chunk_pairs, kTokens * 5}, 4);
    EXPECT_EQ(kept.lines, again.lines) << chunk_pairs;
    EXPECT_TRUE(kept.state == again.state) << chunk_pairs;
    EXPECT_TRUE(kept.state == changing.state) << chunk_pairs;
  }
}

TEST_P(JumpReluRecipeTest, ChunksOfALaneAreLeavesOfTheLaneTree) {
  // Lanes of 8 rows in chunks of 2 add as lanes of 2 rows do. (The scalars of anthropic's norm
  // gradient are added a lane at a time, in float64.)
  const at::Tensor x = normal_values({kTokens, kDim}, 5);
  const auto comm = comm::make_self_communicator();
  const auto chunks = make_sae(config(), {2 * kLatents, 0}), lanes = make_sae(config());
  compute_gradients(*chunks, {.batch_tokens = kTokens, .dead_window_tokens = 100}, x, 4, *comm);
  compute_gradients(*lanes, {.batch_tokens = kTokens, .dead_window_tokens = 100}, x, 16, *comm);
  for (std::size_t p = 0; p < 5; ++p) {
    const at::Tensor& some = chunks->parameters()[p].gradient;
    const at::Tensor& others = lanes->parameters()[p].gradient;
    const bool is_close = config().is_anthropic() && at::allclose(some, others, 1e-6, 1e-8);
    EXPECT_TRUE(is_close || at::equal(some, others)) << kNames[p];
  }
}

TEST_P(JumpReluRecipeTest, TheNumberOfThreadsChangesNoBit) {
  const Trained one = train(config(), {}, 4);
  kernels::set_num_threads(3);
  const Trained three = train(config(), {}, 4);
  kernels::set_num_threads(1);
  EXPECT_EQ(one.lines, three.lines);
  EXPECT_TRUE(one.state == three.state);
}

TEST_P(JumpReluRecipeTest, ShowsNanInTheLoss) {
  const auto sae = make_sae(config());
  const auto comm = comm::make_self_communicator();
  at::Tensor x = normal_values({kTokens, kDim}, 5);
  x[17][2] = std::nanf("");
  compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = 100}, x, 4, *comm);
  EXPECT_TRUE(sae->parameters()[3].gradient.isnan().any().item<bool>());
  EXPECT_TRUE(std::isnan(sae->finish_step(*comm).at("loss").as_double()));
}

TEST(JumpReluSaeTest, KeepsAPairWhosePreActivationIsZeroInTheWindow) {
  // z is 0 everywhere and the threshold in reach: the thresholds learn, nothing is active.
  const auto sae = make_sae(small_config("gdm", "direct"));
  auto& p = sae->parameters();
  p[0].weight.zero_();
  p[1].weight.zero_();
  p[3].weight.zero_();
  p[4].weight.fill_(0.25);
  const auto comm = comm::make_self_communicator();
  const at::Tensor x = normal_values({kTokens, kDim}, 5);
  compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = 100}, x, 4, *comm);
  // dL/dtheta_i = -1/eps (theta * mean(-2 x) d_i + lambda)
  const at::Tensor mean = x.to(at::kDouble).mean(0) * -2;
  const at::Tensor expected = -(0.25 * at::mv(p[2].weight.to(at::kDouble), mean) + 0.7) / 0.6;
  EXPECT_LE(relative_difference(p[4].gradient, expected), 1e-5);
  EXPECT_EQ(p[0].gradient.abs().max().item<float>(), 0.0f);
}

TEST(JumpReluSaeTest, PullsSilentLatentsUpWhateverTheirDistance) {
  JumpReluConfig config = small_config("anthropic", "log");
  const auto sae = make_sae(config);
  auto& p = sae->parameters();
  p[1].weight.fill_(-100);
  const auto comm = comm::make_self_communicator();
  const at::Tensor x = normal_values({kTokens, kDim}, 5);
  compute_gradients(*sae, {.batch_tokens = kTokens, .dead_window_tokens = 100}, x, 4, *comm);
  const at::Tensor norms = p[2].weight.to(at::kDouble).norm(2, 1);
  EXPECT_LE(relative_difference(p[1].gradient, -0.02 * norms), 1e-6);
  const at::Tensor W_enc = -0.02 * at::outer(x.to(at::kDouble).mean(0), norms);
  EXPECT_LE(relative_difference(p[0].gradient, W_enc), 1e-5);
}

TEST(JumpReluSaeTest, StartsGdmWithUnitRowsATiedEncoderAndItsThreshold) {
  JumpReluConfig config = small_config("gdm", "direct");
  config.initial_threshold = 1e-3;
  JumpReluSae sae(config, kDim);
  sae.initialise(7, normal_values({64, kDim}, 1) + 2);
  const auto& p = sae.parameters();
  EXPECT_EQ(p[4].name, "threshold");
  EXPECT_TRUE(at::equal(p[4].weight, at::full({kLatents}, 1e-3f)));
  EXPECT_LE((p[2].weight.norm(2, 1) - 1).abs().max().item<double>(), 1e-6);
  EXPECT_TRUE(at::equal(p[0].weight, p[2].weight.t()));
  EXPECT_EQ(p[1].weight.abs().max().item<double>(), 0.0);
  EXPECT_EQ(p[3].weight.abs().max().item<double>(), 0.0);
}

TEST(JumpReluSaeTest, StartsAnthropicFiringAsOftenAsAsked) {
  JumpReluConfig config = small_config("anthropic", "log");
  config.initial_l0 = 7;  // of 14
  config.n_latents.reset();
  config.expansion_factor = 100;
  config.initial_log_threshold = 0.1;
  JumpReluSae sae(config, kDim);
  const at::Tensor sample = normal_values({1000, kDim}, 1) + 2;
  sae.initialise(7, sample);
  const auto& p = sae.parameters();
  EXPECT_EQ(p[4].name, "log_threshold");
  EXPECT_TRUE(at::equal(p[4].weight, at::full({600}, 0.1f)));
  EXPECT_LE(p[2].weight.abs().max().item<double>(), 1 / std::sqrt(6.0));
  EXPECT_GT(p[2].weight.abs().max().item<double>(), 0.98 / std::sqrt(6.0));
  EXPECT_LE(relative_difference(p[0].weight, p[2].weight.t() * 6 / 600), 1e-6);
  const at::Tensor active = (at::mm(sample, p[0].weight) + p[1].weight).gt(std::exp(0.1));
  // 7 of 600 latents a token: 12 of 1,000 rows a latent.
  const at::Tensor counts = active.sum(0);
  EXPECT_GE(counts.min().item<std::int64_t>(), 11);
  EXPECT_LE(counts.max().item<std::int64_t>(), 13);
  const auto comm = comm::make_self_communicator();
  const std::vector<std::string> lines = testing::train(sae, 1, 32, 100, 4, *comm);
  EXPECT_NEAR(Json::parse(lines[0], "line").at("threshold_mean").as_double(), 1.10517, 1e-5)
      << "the threshold that log theta = 0.1 means";
}

TEST(JumpReluSaeTest, KeepsThresholdsAtZeroOrAboveAndDecoderRowsAtUnitNorm) {
  JumpReluConfig config = small_config("gdm", "direct");
  config.initial_threshold = 1e-3;
  config.sparsity_coefficient = 0;
  const auto sae = make_sae(config);
  sae->parameters()[4].weight.fill_(1e-3);
  const auto comm = comm::make_self_communicator();
  testing::train(*sae, 5, kTokens, 32, 4, *comm);
  const at::Tensor& theta = sae->parameters()[4].weight;
  EXPECT_EQ(theta.min().item<double>(), 0.0) << "Adam's steps of 0.01 went below";
  EXPECT_LE((sae->parameters()[2].weight.norm(2, 1) - 1).abs().max().item<double>(), 1e-6);
}

TEST(JumpReluSaeTest, ReachesItsTargetL0) {
  JumpReluConfig config = small_config("target_l0", "direct");
  config.target_l0 = 4;
  config.sparsity_coefficient = 20;
  config.n_latents = 48;
  JumpReluSae sae(config, kDim);
  sae.initialise(7, normal_values({64, kDim}, 1));
  const auto comm = comm::make_self_communicator();
  const auto lines = testing::train(sae, 300, 128, 1000, 4, *comm);
  EXPECT_GT(Json::parse(lines.front(), "line").at("l0").as_double(), 12);
  EXPECT_NEAR(Json::parse(lines.back(), "line").at("l0").as_double(), 4, 1);
}

TEST(JumpReluSaeTest, RefusesSizesThatCannotWork) {
  JumpReluConfig config = small_config("target_l0", "direct");
  config.target_l0 = 15;
  EXPECT_EQ(testing::first_line_of([&] { JumpReluSae(config, kDim); }),
            "sae j: target_l0 15 is above the dictionary size 14");
  config = small_config("anthropic", "log");
  config.initial_l0 = 15;
  EXPECT_EQ(testing::first_line_of([&] { JumpReluSae(config, kDim); }),
            "sae j: initial_l0 15 is above the dictionary size 14");
}

}  // namespace
}  // namespace thresher::sae
