#include <gtest/gtest.h>

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

TEST(TrainConfigTest, DemandsTotalTokens) {
  const ConfigNode node = parse_config("batch_tokens: 64\n", "a.yaml");
  EXPECT_EQ(first_line_of([&] {
              ConfigReader reader(&node, "train");
              TrainConfig config;
              config.declare(reader);
              reader.finish();
            }),
            "a.yaml:1:1: train.total_tokens is missing");
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
