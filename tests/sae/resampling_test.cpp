#include "sae/resampling.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "sae/relu_l1_sae.h"
#include "tests/sae/sae_testing.h"

namespace thresher::sae {
namespace {

using testing::normal_values;

constexpr std::int64_t kDim = 6;
constexpr std::int64_t kLatents = 10;
constexpr std::int64_t kTokens = 32;

TEST(DrawWithoutReplacementTest, DrawsInProportionToTheWeights) {
  const std::vector<double> weights = {1, 0, 2, 5};
  const RandomStream stream(3, "tests.draw");
  std::vector<int> first(4, 0);
  constexpr int kDraws = 40'000;
  for (int i = 0; i < kDraws; ++i) {
    ++first[static_cast<std::size_t>(
        draw_without_replacement(weights, 1, stream, static_cast<std::uint64_t>(4 * i)).at(0))];
  }
  EXPECT_NEAR(first[0] / double{kDraws}, 1.0 / 8, 0.01);
  EXPECT_EQ(first[1], 0);
  EXPECT_NEAR(first[2] / double{kDraws}, 2.0 / 8, 0.01);
  EXPECT_NEAR(first[3] / double{kDraws}, 5.0 / 8, 0.01);
}

TEST(DrawWithoutReplacementTest, DrawsEveryElementOnceAtMost) {
  const std::vector<double> weights = {1, 0, 2, 5};
  const RandomStream stream(3, "tests.draw");
  std::vector<std::int64_t> drawn = draw_without_replacement(weights, 9, stream, 0);
  std::sort(drawn.begin(), drawn.end());
  EXPECT_EQ(drawn, (std::vector<std::int64_t>{0, 2, 3}));
  EXPECT_EQ(draw_without_replacement(weights, 2, stream, 0).size(), 2U);
  EXPECT_TRUE(draw_without_replacement(weights, 0, stream, 0).empty());
}

TEST(DrawWithoutReplacementTest, ADrawBelongsToThePositionOfItsElement) {
  const RandomStream stream(3, "tests.draw");
  const std::vector<double> all = {1, 3, 2, 5, 1, 4};
  const std::vector<double> tail(all.begin() + 2, all.end());
  std::vector<std::int64_t> expected;
  for (const std::int64_t i : draw_without_replacement(all, 6, stream, 100)) {
    if (i >= 2) expected.push_back(i - 2);
  }
  EXPECT_EQ(draw_without_replacement(tail, 6, stream, 102), expected);
}

ReluL1Config bricken_config() {
  ReluL1Config config;
  config.form = "bricken";
  config.use_form_defaults();
  config.name = "r";
  config.type = "relu_l1";
  config.n_latents = kLatents;
  config.l1_coefficient = 0.1;
  config.resample_every_tokens = 3 * kTokens;
  return config;
}

/// One step; the weights stay, so that only resampling moves them.
Json take_step(TrainingSae& sae, std::int64_t step, comm::Communicator& comm,
               std::int64_t n_lanes = 4) {
  const at::Tensor batch = normal_values({kTokens, kDim}, 50 + static_cast<std::uint64_t>(step));
  testing::compute_gradients(sae,
                             {.step = step,
                              .tokens_before = step * kTokens,
                              .total_tokens = 20 * kTokens,
                              .batch_tokens = kTokens,
                              .dead_window_tokens = 2 * kTokens,
                              .seed = 9},
                             batch, n_lanes, comm);
  return sae.finish_step(comm);
}

/// Latents 2 and 7 never fire.
std::unique_ptr<ReluL1Sae> sae_with_dead_latents() {
  auto sae = std::make_unique<ReluL1Sae>(bricken_config(), kDim);
  sae->initialise(7, normal_values({64, kDim}, 1));
  for (const std::int64_t dead : {2, 7}) sae->parameters()[1].weight[dead].fill_(-100);
  return sae;
}

TEST(ResamplingTest, GivesDeadLatentsTheDirectionsOfRowsOfThatBatch) {
  const auto sae = sae_with_dead_latents();
  const auto comm = comm::make_self_communicator();
  std::vector<at::Tensor> before;
  for (const Parameter& parameter : sae->parameters()) before.push_back(parameter.weight.clone());
  for (std::int64_t step = 0; step < 2; ++step) {
    EXPECT_EQ(take_step(*sae, step, *comm).at("resampled_latents").as_int(), 0);
    EXPECT_TRUE(sae->replaced_latents().empty());
  }
  const Json figures = take_step(*sae, 2, *comm);
  EXPECT_EQ(figures.at("resampled_latents").as_int(), 2);
  EXPECT_EQ(figures.at("dead_latents").as_int(), 0);
  EXPECT_EQ(sae->replaced_latents(), (std::vector<std::int64_t>{2, 7}));

  const auto& p = sae->parameters();
  const at::Tensor inputs = normal_values({kTokens, kDim}, 52) - p[3].weight;
  const at::Tensor directions = inputs / inputs.norm(2, 1, true);
  const at::Tensor living =
      before[0].norm(2, 0).index_select(0, at::tensor({0, 1, 3, 4, 5, 6, 8, 9}, at::kLong));
  const double encoder_norm = 0.2 * living.mean().item<double>();
  std::set<std::int64_t> rows;
  for (const std::int64_t latent : {2, 7}) {
    const at::Tensor cosines = at::mv(directions, p[2].weight[latent]);
    const auto row = cosines.argmax().item<std::int64_t>();
    EXPECT_NEAR(cosines[row].item<double>(), 1, 1e-6);
    rows.insert(row);
    EXPECT_LE(
        (p[0].weight.select(1, latent) - encoder_norm * directions[row]).abs().max().item<double>(),
        1e-6);
    EXPECT_EQ(p[1].weight[latent].item<float>(), 0.0F);
  }
  EXPECT_EQ(rows.size(), 2U) << "two latents never take the same row";
  for (const std::int64_t latent : {0, 1, 3, 4, 5, 6, 8, 9}) {
    EXPECT_TRUE(at::equal(p[0].weight.select(1, latent), before[0].select(1, latent)));
  }
  EXPECT_TRUE(take_step(*sae, 3, *comm).at("resampled_latents").as_int() == 0);
}

TEST(ResamplingTest, IsTheSameOnAnyNumberOfRanksAndInEveryLaneSplit) {
  std::vector<std::string> states;
  for (const int ranks : {1, 2, 4}) {
    comm::run_thread_ranks(ranks, 60, [&](comm::Communicator& comm) {
      const auto sae = sae_with_dead_latents();
      for (std::int64_t step = 0; step < 3; ++step) take_step(*sae, step, comm, 8);
      if (comm.is_root()) states.push_back(testing::state_bytes(*sae));
    });
  }
  EXPECT_TRUE(states[1] == states[0]);
  EXPECT_TRUE(states[2] == states[0]);
}

TEST(ResamplingTest, AnotherSeedTakesOtherRows) {
  const auto comm = comm::make_self_communicator();
  std::vector<at::Tensor> rows;
  for (const std::uint64_t seed : {9, 10}) {
    const auto sae = sae_with_dead_latents();
    const at::Tensor batch = normal_values({kTokens, kDim}, 1);
    sae->buffers()[0].second.fill_(1000);
    testing::compute_gradients(*sae,
                               {.tokens_before = 2 * kTokens,
                                .total_tokens = 20 * kTokens,
                                .batch_tokens = kTokens,
                                .dead_window_tokens = 2 * kTokens,
                                .seed = seed},
                               batch, 4, *comm);
    sae->finish_step(*comm);
    rows.push_back(sae->parameters()[2].weight[2].clone());
  }
  EXPECT_FALSE(at::equal(rows[0], rows[1]));
}

TEST(ResamplingTest, ResamplesAsManyAsTheBatchHasRowsAndTheRestNextTime) {
  ReluL1Config config = bricken_config();
  config.n_latents = kTokens + 8;
  ReluL1Sae sae(config, kDim);
  sae.initialise(7, normal_values({64, kDim}, 1));
  sae.parameters()[1].weight.fill_(-100);
  const auto comm = comm::make_self_communicator();
  std::vector<std::int64_t> counts;
  for (std::int64_t step = 0; step < 6; ++step) {
    counts.push_back(take_step(sae, step, *comm).at("resampled_latents").as_int());
  }
  EXPECT_EQ(counts[2], kTokens) << "no living latent: the encoder norm is 0.2 of a unit row's";
  EXPECT_NEAR(sae.parameters()[0].weight.select(1, 0).norm().item<double>(), 0.2, 1e-6);
  EXPECT_GE(counts[5], 8);
}

TEST(ResamplingTest, IsDueInTokensAndEndsInTime) {
  ReluL1Config config = bricken_config();
  config.resample_every_tokens = 100;
  EXPECT_FALSE(config.is_resampling_due(0, 64, 1000));
  EXPECT_TRUE(config.is_resampling_due(64, 128, 1000));
  EXPECT_FALSE(config.is_resampling_due(128, 192, 1000));
  EXPECT_TRUE(config.is_resampling_due(384, 448, 1000));
  EXPECT_FALSE(config.is_resampling_due(448, 512, 1000)) << "auto: until half of the run";
  config.resample_until_tokens = 512;
  EXPECT_TRUE(config.is_resampling_due(448, 512, 1000));
  config.resample_every_tokens.reset();
  EXPECT_TRUE(config.is_resampling_due(64, 128, 1000)) << "auto: a tenth of the run";
  config.resample_every_tokens = 0;
  EXPECT_FALSE(config.is_resampling_due(64, 128, 1000));
  config = ReluL1Config();
  EXPECT_FALSE(config.is_resampling_due(64, 128, 1000)) << "april";
}

}  // namespace
}  // namespace thresher::sae
