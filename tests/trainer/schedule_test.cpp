#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "trainer/step.h"
#include "trainer/train_config.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

TrainConfig config_of_1000_tokens() {
  TrainConfig config;
  config.total_tokens = 1000;
  config.batch_tokens = 8;
  config.learning_rate = 0.5;
  return config;
}

TEST(ScheduleTest, RisesFromZeroToTheFullRateAtTheFirstStepPastWarmUp) {
  TrainConfig config = config_of_1000_tokens();
  config.warmup_tokens = 80;
  EXPECT_EQ(learning_rate_at(config, 0), 0.0);
  EXPECT_EQ(learning_rate_at(config, 8), 0.05);
  EXPECT_EQ(learning_rate_at(config, 40), 0.25);
  EXPECT_EQ(learning_rate_at(config, 80), 0.5);
  EXPECT_EQ(learning_rate_at(config, 992), 0.5);
}

TEST(ScheduleTest, FallsToZeroWithTheStepAfterTheLast) {
  TrainConfig config = config_of_1000_tokens();
  config.decay_tokens = 80;
  EXPECT_EQ(learning_rate_at(config, 912), 0.5);
  EXPECT_EQ(learning_rate_at(config, 920), 0.5);
  EXPECT_EQ(learning_rate_at(config, 960), 0.25);
  EXPECT_EQ(learning_rate_at(config, 992), 0.05);
  EXPECT_EQ(learning_rate_at(config, 1000), 0.0);
}

TEST(ScheduleTest, FallsAlongAStraightLineOrACosineToItsFloor) {
  TrainConfig config = config_of_1000_tokens();
  config.decay_tokens = 400;
  config.decay_floor = 0.5;
  EXPECT_EQ(learning_rate_at(config, 600), 0.5);
  EXPECT_EQ(learning_rate_at(config, 800), 0.375);
  EXPECT_EQ(learning_rate_at(config, 1000), 0.25);
  config.decay_shape = "cosine";
  EXPECT_EQ(learning_rate_at(config, 600), 0.5);
  EXPECT_NEAR(learning_rate_at(config, 700), 0.25 + 0.25 * (1 + std::sqrt(0.5)) / 2, 1e-12);
  EXPECT_NEAR(learning_rate_at(config, 800), 0.375, 1e-12);
  EXPECT_NEAR(learning_rate_at(config, 900), 0.25 + 0.25 * (1 - std::sqrt(0.5)) / 2, 1e-12);
  EXPECT_EQ(learning_rate_at(config, 1000), 0.25);
}

TEST(OverridesTest, AnSaesOwnFieldsComeBeforeTheSections) {
  TrainConfig train = config_of_1000_tokens();
  train.clip_gradient_norm = 3;
  sae::TopKConfig config;
  config.name = "a";
  EXPECT_EQ(config_of(train, config).learning_rate, 0.5);
  config.train.learning_rate = 0.25;
  config.train.decay_tokens = 80;
  config.train.decay_shape = "cosine";
  config.train.ema_decay = 0.9;
  const TrainConfig own = config_of(train, config);
  EXPECT_EQ(own.learning_rate, 0.25);
  EXPECT_EQ(own.decay_tokens, 80);
  EXPECT_EQ(own.decay_shape, "cosine");
  EXPECT_EQ(own.ema_decay, 0.9);
  EXPECT_EQ(own.clip_gradient_norm, 3);
  EXPECT_EQ(own.total_tokens, 1000);
  config.train.warmup_tokens = 921;
  EXPECT_EQ(first_line_of([&] { config_of(train, config); }),
            "sae a.warmup_tokens = 921 and sae a.decay_tokens = 80 do not fit into "
            "train.total_tokens = 1000");
  config.train = {};
  config.train.decay_floor = 0.1;
  EXPECT_EQ(first_line_of([&] { config_of(train, config); }),
            "sae a.decay_floor = 0.1 has no use without decay_tokens");
}

TEST(OverridesTest, AnAnnealingOfKLongerThanTheRunIsRefused) {
  const TrainConfig train = config_of_1000_tokens();
  sae::TopKConfig config;
  config.name = "a";
  config.k_start = 64;
  config.k_anneal_tokens = 1000;
  EXPECT_EQ(first_line_of([&] { config_of(train, config); }), "no error");
  config.k_anneal_tokens = 1001;
  EXPECT_EQ(first_line_of([&] { config_of(train, config); }),
            "sae a.k_anneal_tokens = 1001 does not fit into train.total_tokens = 1000");
}

TEST(OverridesTest, SparsityRampsLongerThanTheRunAreRefused) {
  const TrainConfig train = config_of_1000_tokens();
  sae::ReluL1Config config;
  config.name = "a";
  config.sparsity_decay_tokens = 950;  // after a warm-up of 5 %
  EXPECT_EQ(first_line_of([&] { config_of(train, config); }), "no error");
  config.sparsity_decay_tokens = 951;
  EXPECT_EQ(first_line_of([&] { config_of(train, config); }),
            "sae a.sparsity_warmup_fraction = 0.05 (50 tokens) and "
            "sae a.sparsity_decay_tokens = 951 do not fit into train.total_tokens = 1000");
  config.sparsity_decay_tokens = 80;
  config.sparsity_warmup_tokens = 921;
  EXPECT_EQ(first_line_of([&] { config_of(train, config); }),
            "sae a.sparsity_warmup_tokens = 921 and sae a.sparsity_decay_tokens = 80 do not fit "
            "into train.total_tokens = 1000");
  config.sparsity_warmup_tokens = 920;
  EXPECT_EQ(first_line_of([&] { config_of(train, config); }), "no error");
}

TEST(ScheduleTest, CountsTheDecayFromTheLastWholeBatch) {
  TrainConfig config = config_of_1000_tokens();
  config.total_tokens = 1007;  // 125 whole batches of 8
  config.decay_tokens = 80;
  EXPECT_EQ(learning_rate_at(config, 992), 0.05);
}

TEST(TrainConfigTest, RefusesABatchThatTheLanesCannotShare) {
  TrainConfig config = config_of_1000_tokens();
  config.batch_tokens = 100;
  EXPECT_EQ(first_line_of([&] { config.validate(); }),
            "train.batch_tokens = 100 is not a multiple of train.lanes = 8");
}

TEST(TrainConfigTest, RefusesLanesThatAreNoPowerOfTwo) {
  TrainConfig config = config_of_1000_tokens();
  config.lanes = 6;
  EXPECT_EQ(first_line_of([&] { config.validate(); }), "train.lanes = 6 is not a power of two");
}

TEST(TrainConfigTest, RefusesARunShorterThanABatch) {
  TrainConfig config = config_of_1000_tokens();
  config.batch_tokens = 1024;
  EXPECT_EQ(first_line_of([&] { config.validate(); }),
            "train.total_tokens = 1000 is less than train.batch_tokens = 1024");
}

TEST(TrainConfigTest, RefusesRampsLongerThanTheRun) {
  TrainConfig config = config_of_1000_tokens();
  config.warmup_tokens = 600;
  config.decay_tokens = 401;
  EXPECT_EQ(first_line_of([&] { config.validate(); }),
            "train.warmup_tokens = 600 and train.decay_tokens = 401 do not fit into "
            "train.total_tokens = 1000");
  config.decay_tokens = 400;
  EXPECT_EQ(first_line_of([&] { config.validate(); }), "no error");
}

TrainConfig settled(const char* yaml, std::int64_t rows) {
  const ConfigNode node = parse_config(yaml, "a.yaml");
  ConfigReader reader(&node, "train");
  TrainConfig config = TrainConfig::automatic();
  config.declare(reader);
  reader.finish();
  config.settle(std::nullopt);
  config.settle(rows);
  config.validate();
  return config;
}

std::vector<std::int64_t> lengths(const TrainConfig& config) {
  return {config.total_tokens, config.batch_tokens, config.warmup_tokens, config.decay_tokens};
}

TEST(TrainConfigTest, ChoosesLengthsForTheCacheWhereNoneIsGiven) {
  using Lengths = std::vector<std::int64_t>;
  // Ten passes, 1,125 tokens a step would leave 800 steps, so 1,024.
  EXPECT_EQ(lengths(settled("{}", 95000)), (Lengths{949248, 1024, 47462, 189849}));
  EXPECT_EQ(lengths(settled("{}", 500000)), (Lengths{999424, 1024, 49971, 199884}));
  EXPECT_EQ(lengths(settled("{}", 20000000)), (Lengths{19996672, 4096, 999833, 3999334}));
  EXPECT_EQ(lengths(settled("{}", 1000)), (Lengths{9984, 64, 499, 1996}));
  EXPECT_EQ(lengths(settled("{lanes: 128}", 1000)), (Lengths{9984, 128, 499, 1996}));
  EXPECT_EQ(lengths(settled("{epochs: 2.5, batch_tokens: 200, warmup_tokens: 7}", 1000)),
            (Lengths{2400, 200, 7, 480}));
}

TEST(TrainConfigTest, KeepsWhatItAlwaysMeantWhereTotalTokensIsGiven) {
  const TrainConfig given = settled("{total_tokens: 1M}", 1000);
  EXPECT_EQ(lengths(given), (std::vector<std::int64_t>{1000000, 4096, 0, 0}));
  EXPECT_EQ(lengths(settled("{total_tokens: 1M, batch_tokens: 512, decay_tokens: 9}", 1000)),
            (std::vector<std::int64_t>{1000000, 512, 0, 9}));
}

TEST(TrainConfigTest, IsNotSettledBeforeTheRowsAreKnown) {
  TrainConfig config = TrainConfig::automatic();
  config.settle(std::nullopt);
  EXPECT_FALSE(config.is_settled());
  config.validate();
  ConfigWriter writer;
  config.declare(writer);
  EXPECT_EQ(writer.json().at("total_tokens").as_string(), "auto");
}

TEST(TrainConfigTest, RefusesTwoLengths) {
  EXPECT_EQ(first_line_of([] { settled("{total_tokens: 9000, epochs: 1}", 1000); }),
            "train.epochs = 1 and train.total_tokens = 9000 both say how long training is");
}

TEST(TrainConfigTest, KeepsAtLeastTwoCheckpoints) {
  const ConfigNode node = parse_config("total_tokens: 64\nkeep_checkpoints: 1\n", "a.yaml");
  EXPECT_EQ(first_line_of([&] {
              ConfigReader reader(&node, "train");
              TrainConfig config;
              config.declare(reader);
            }),
            "a.yaml:2:19: train.keep_checkpoints = 1 is below 2");
}

}  // namespace
}  // namespace thresher::trainer
