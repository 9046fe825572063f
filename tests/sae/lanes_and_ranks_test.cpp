// The same bits however the lanes are dealt over ranks (design: numbers do not depend on how many
// ranks computed them).
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <memory>

#include "kernels/parallel.h"
#include "tests/sae/sae_testing.h"

namespace thresher::sae {
namespace {

constexpr std::int64_t kDim = 24;
constexpr std::int64_t kLanes = 8;
constexpr std::int64_t kSteps = 8;
constexpr std::int64_t kBatchTokens = 64;

struct Outcome {
  std::string state;
  std::vector<std::string> lines;
};

Outcome train_on(const std::string& type, int ranks, int threads = 1) {
  std::vector<Outcome> outcomes(static_cast<std::size_t>(ranks));
  comm::run_thread_ranks(ranks, 60, [&](comm::Communicator& comm) {
    at::set_num_threads(1);
    kernels::set_num_threads(threads);
    const auto config = testing::config_of_case(type);
    config->hook_point = "h";
    config->expansion_factor = 5;
    const auto sae = make_training_sae(*config, kDim);
    sae->initialise(11, testing::normal_values({128, kDim}, 1));
    if (type == "relu_l1_bricken") {  // latents that only resampling can wake
      sae->parameters()[1].weight.slice(0, 3, 6).fill_(-100);
    }
    if (type == "topk_aux_pairs") {  // latents that TopK never reaches, and AuxK does
      sae->parameters()[0].weight.slice(1, 0, 20).mul_(0.05);
    }
    if (type == "relu_l1_sparse") sae->parameters()[1].weight.fill_(-0.25);
    Outcome& outcome = outcomes[static_cast<std::size_t>(comm.rank())];
    // A short window: AuxK works from the third step on.
    outcome.lines = testing::train(*sae, kSteps, kBatchTokens, 100, kLanes, comm);
    outcome.state = testing::state_bytes(*sae);
  });
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.state, outcomes[0].state);
    EXPECT_EQ(outcome.lines, outcomes[0].lines);
  }
  return outcomes[0];
}

class LanesAndRanksTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Types, LanesAndRanksTest, ::testing::ValuesIn(testing::cases()),
                         [](const auto& param_info) { return param_info.param; });

TEST_P(LanesAndRanksTest, TrainsToTheSameBitsOnOneTwoAndFourRanks) {
  const Outcome one = train_on(GetParam(), 1);
  for (const int ranks : {2, 4}) {
    const Outcome many = train_on(GetParam(), ranks);
    EXPECT_EQ(many.lines, one.lines) << ranks << " ranks";
    EXPECT_TRUE(many.state == one.state) << ranks << " ranks";
  }
}

TEST(LanesAndRanksTest, AnnealsAndResamplesInThoseRuns) {
  std::vector<std::int64_t> ks;
  for (const std::string& line : train_on("topk_annealed", 1).lines) {
    ks.push_back(Json::parse(line, "line").at("k").as_int());
  }
  EXPECT_EQ(ks, (std::vector<std::int64_t>{11, 10, 9, 8, 7, 6, 6, 6}));
  std::int64_t resampled = 0;
  for (const std::string& line : train_on("relu_l1_bricken", 1).lines) {
    resampled += Json::parse(line, "line").at("resampled_latents").as_int();
  }
  EXPECT_GE(resampled, 3);
}

TEST(LanesAndRanksTest, UsesSparseProductsInThatRun) {
  for (const std::string& line : train_on("relu_l1_sparse", 1).lines) {
    const double l0 = Json::parse(line, "line").at("l0").as_double();
    EXPECT_GT(l0, 0.3);
    EXPECT_LT(l0, 120.0 / 8) << "an eighth of the latents";
  }
}

TEST(LanesAndRanksTest, ReachesAuxKInThoseRunsByDenseProductsAndByPairs) {
  // Pairs are for more than six times as many dead latents as AuxK takes: 12, and 1.
  const auto last_line = [](const std::string& type) {
    return Json::parse(train_on(type, 1).lines.back(), "line");
  };
  const Json dense = last_line("topk"), pairs = last_line("topk_aux_pairs");
  EXPECT_GT(dense.at("aux_loss").as_double(), 0.0);
  EXPECT_GT(pairs.at("aux_loss").as_double(), 0.0);
  EXPECT_LE(dense.at("dead_latents").as_int(), 6 * 12);
  EXPECT_GT(pairs.at("dead_latents").as_int(), 6 * 1);
}

TEST(LanesAndRanksTest, TrainsToTheSameBitsWithOneAndThreeThreads) {
  for (const std::string type : {"topk", "topk_aux_pairs", "batch_topk"}) {
    const Outcome one = train_on(type, 1), three = train_on(type, 1, 3);
    EXPECT_EQ(three.lines, one.lines) << type;
    EXPECT_TRUE(three.state == one.state) << type;
  }
}

}  // namespace
}  // namespace thresher::sae
