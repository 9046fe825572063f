#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "sae/topk_sae.h"
#include "tests/sae/sae_testing.h"
#include "tests/sae/topk_reference.h"

namespace thresher::sae {
namespace {

using testing::compute_gradients;
using testing::normal_values;
using testing::relative_difference;
using testing::TopKReference;

constexpr std::int64_t kDim = 6;
constexpr std::int64_t kLatents = 14;
constexpr std::int64_t kTokens = 16;
constexpr std::int64_t kWindow = 1000;

BatchTopKConfig small_config() {
  BatchTopKConfig config;
  config.name = "a";
  config.type = "batch_topk";
  config.hook_point = "blocks.0.hook_resid_post";
  config.n_latents = kLatents;
  config.k = 3;
  config.aux_k = 3;
  config.aux_coefficient = 0.5;
  config.threshold_window_tokens = 32;
  return config;
}

at::Tensor buffer(TrainingSae& sae, const std::string& name) {
  for (const auto& [key, tensor] : sae.buffers()) {
    if (key == name) return tensor;
  }
  throw InternalError("no buffer " + name);
}

std::unique_ptr<TopKSae> make_sae(const std::vector<std::int64_t>& dead = {}) {
  auto sae = std::make_unique<TopKSae>(small_config(), kDim);
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
  TopKReference reference;
  reference.over_batch = true;
  for (std::size_t p = 0; p < 4; ++p) {
    reference.parameters[p] = sae.parameters()[p].weight.to(at::kDouble).contiguous();
  }
  reference.x = x.to(at::kDouble);
  reference.mean_squared_input = buffer(sae, "mean_squared_input").item<double>();
  if (!dead.empty()) {
    reference.aux_weight = 0.5 * std::min(1.0, static_cast<double>(dead.size()) / 3.0);
  }
  reference.select(3, 3, dead);
  return reference;
}

/// The smallest activation among the 3 N that a batch keeps.
double smallest_kept(const TopKReference& reference) {
  const auto& p = reference.parameters;
  const at::Tensor z = at::mm(reference.x - p[3], p[0]) + p[1];
  return z.masked_select(reference.main_mask.gt(0)).min().item<double>();
}

StepInfo step(std::int64_t index) {
  return {.step = index,
          .tokens_before = index * kTokens,
          .total_tokens = 100 * kTokens,
          .batch_tokens = kTokens,
          .dead_window_tokens = kWindow};
}

class BatchTopKGradientTest : public ::testing::TestWithParam<std::vector<std::int64_t>> {};
INSTANTIATE_TEST_SUITE_P(
    DeadSets, BatchTopKGradientTest,
    ::testing::Values(std::vector<std::int64_t>{}, std::vector<std::int64_t>{2, 9},
                      std::vector<std::int64_t>{0, 1, 3, 5, 8, 11, 13},
                      std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}));

TEST_P(BatchTopKGradientTest, TrainingCodeEqualsTheFormulasForEveryLaneCount) {
  const at::Tensor x = normal_values({kTokens, kDim}, 5) + 0.5;
  for (const std::int64_t n_lanes : {1, 2, 8}) {
    const auto sae = make_sae(GetParam());
    const TopKReference reference = reference_of(*sae, x, GetParam());
    ASSERT_GT(smallest_kept(reference), 0) << "all that is kept must be positive here";
    const auto expected = reference.gradients();
    const auto comm = comm::make_self_communicator();
    compute_gradients(*sae, step(0), x, n_lanes, *comm);
    for (std::size_t p = 0; p < 4; ++p) {
      EXPECT_LE(relative_difference(sae->parameters()[p].gradient, expected[p]), 1e-5)
          << sae->parameters()[p].name << ", lanes " << n_lanes;
    }
    const Json figures = sae->finish_step(*comm);
    EXPECT_NEAR(figures.at("loss").as_double(), reference.loss_value(), 1e-5);
    EXPECT_DOUBLE_EQ(figures.at("l0").as_double(), 3);
  }
}

TEST(BatchTopKSaeTest, LearnsTheThresholdAsAMeanThatForgets) {
  const auto sae = make_sae();
  const auto comm = comm::make_self_communicator();
  double sum = 0, weight = 0;
  const double decay = std::exp(-16.0 / 32.0);
  for (std::int64_t index = 0; index < 4; ++index) {
    const at::Tensor x = normal_values({kTokens, kDim}, 50 + static_cast<std::uint64_t>(index)) *
                         static_cast<double>(index + 1);
    const TopKReference reference = reference_of(*sae, x, {});
    sum = decay * sum + smallest_kept(reference);
    weight = decay * weight + 1;
    compute_gradients(*sae, step(index), x, 2, *comm);
    EXPECT_NEAR(sae->finish_step(*comm).at("threshold").as_double(), sum / weight, 1e-5);
  }
  InputTransform transform;
  transform.centre.assign(kDim, 0.25);
  transform.scale = 4;
  const InferenceSae exported = sae->to_inference(transform);
  EXPECT_EQ(exported.architecture, "jumprelu");
  ASSERT_EQ(exported.threshold.numel(), kLatents);
  EXPECT_NEAR(exported.threshold.max().item<double>(), sum / weight / 4, 1e-5);
  EXPECT_EQ(exported.threshold.min().item<float>(), exported.threshold.max().item<float>());
}

TEST(BatchTopKSaeTest, HasAThresholdBeforeAnyTraining) {
  TopKSae sae(small_config(), kDim);
  const at::Tensor sample = normal_values({1024, kDim}, 1);
  sae.initialise(7, sample);
  InputTransform identity;
  identity.centre.assign(kDim, 0);
  const at::Tensor acts = sae.to_inference(identity).encode_dense(sample);
  EXPECT_NEAR(at::count_nonzero(acts).item<double>() / 1024, 3, 0.02);
}

TEST(BatchTopKSaeTest, SelectsTheSameWhateverItGuesses) {
  // After a batch of tiny inputs the guess is far too low, after one of huge ones far too high.
  const at::Tensor x = normal_values({kTokens, kDim}, 5) + 0.5;
  std::vector<std::string> gradients;
  for (const double before : {1.0, 1e-3, 1e3}) {
    const auto sae = make_sae();
    const auto comm = comm::make_self_communicator();
    compute_gradients(*sae, step(0), normal_values({kTokens, kDim}, 6) * before, 2, *comm);
    compute_gradients(*sae, step(1), x, 2, *comm);
    gradients.emplace_back();
    for (const Parameter& parameter : sae->parameters()) {
      const at::Tensor flat = parameter.gradient.contiguous();
      gradients.back().append(static_cast<const char*>(flat.const_data_ptr()),
                              static_cast<std::size_t>(flat.numel()) * sizeof(float));
    }
  }
  EXPECT_TRUE(gradients[1] == gradients[0]);
  EXPECT_TRUE(gradients[2] == gradients[0]);
}

TEST(BatchTopKSaeTest, KeepsAllPositiveActivationsWhereThereAreTooFew) {
  const auto sae = make_sae();
  sae->parameters()[1].weight.fill_(-1000);
  sae->parameters()[1].weight[4] = 1000;
  const auto comm = comm::make_self_communicator();
  compute_gradients(*sae, step(0), normal_values({kTokens, kDim}, 5), 2, *comm);
  EXPECT_DOUBLE_EQ(sae->finish_step(*comm).at("l0").as_double(), 1);
}

TEST(BatchTopKSaeTest, ShowsNanInTheLoss) {
  const auto sae = make_sae();
  const auto comm = comm::make_self_communicator();
  sae->parameters()[1].weight[2] = std::nan("");
  compute_gradients(*sae, step(0), normal_values({kTokens, kDim}, 5), 2, *comm);
  EXPECT_TRUE(std::isnan(sae->parameters()[3].gradient.sum().item<float>()));
  EXPECT_TRUE(std::isnan(sae->finish_step(*comm).at("loss").as_double()));
}

}  // namespace
}  // namespace thresher::sae
