#include "sae/sae_config.h"
#include "sae/jumprelu_config.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "sae/training_sae.h"
#include "tests/sae/sae_testing.h"

namespace thresher::sae {
namespace {

using testing::first_line_of;

std::unique_ptr<SaeConfig> read(const std::string& yaml) {
  return read_sae_config(parse_config(yaml, "a.yaml"), "sae[0]");
}

std::string message_of(const std::string& yaml) {
  try {
    read(yaml);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

TEST(SaeConfigTest, MakesTheVariantThatTypeNames) {
  const auto config = read("{name: a, hook_point: h, type: topk, k: 16, aux_k: 100}");
  const auto* topk = dynamic_cast<const TopKConfig*>(config.get());
  ASSERT_NE(topk, nullptr);
  EXPECT_EQ(topk->type, "topk");
  EXPECT_EQ(topk->k, 16);
  EXPECT_EQ(topk->aux_k, 100);
  EXPECT_EQ(topk->aux_coefficient, 1.0 / 32);
  EXPECT_EQ(topk->decoder_bias_init, "geometric_median");
  EXPECT_EQ(topk->latents(576), 2304);
}

TEST(SaeConfigTest, StartsReluL1WithZeroBiases) {
  const auto config = read("{hook_point: h, type: relu_l1, n_latents: 100}");
  EXPECT_NE(dynamic_cast<const ReluL1Config*>(config.get()), nullptr);
  EXPECT_EQ(config->decoder_bias_init, "zero");
  EXPECT_EQ(config->latents(576), 100);
  EXPECT_EQ(config->name, "relu_l1");
}

TEST(SaeConfigTest, ListsTheTypesAndThePlaceOfAnUnknownOne) {
  EXPECT_EQ(message_of("name: a\nhook_point: h\ntype: topkk\n"),
            "a.yaml:3:7: sae[0].type = topkk is not known\n"
            "  expected: one of topk, batch_topk, relu_l1, jumprelu\n"
            "  hint: did you mean topk?");
  EXPECT_EQ(message_of("name: a\nhook_point: h\n"),
            "a.yaml:1:1: sae[0].type is missing\n"
            "  expected: The SAE variant: topk, batch_topk, relu_l1, jumprelu.");
}

TEST(SaeConfigTest, RefusesAnotherVariantsKey) {
  EXPECT_EQ(first_line_of([] { read("{name: a, hook_point: h, type: relu_l1, k: 3}"); }),
            "a.yaml:1:41: unknown key sae[0].k");
}

TEST(SaeConfigTest, RefusesNamesThatCannotNameAFolder) {
  EXPECT_EQ(first_line_of([] { read("{name: ../a, hook_point: h, type: topk}"); }),
            "a.yaml:1:8: sae[0].name = \"../a\" cannot name a folder");
}

TEST(SaeConfigTest, RefusesValuesOutOfRange) {
  EXPECT_EQ(first_line_of([] { read("{hook_point: h, type: topk, k: 0}"); }),
            "a.yaml:1:32: sae[0].k = 0 is below 1");
  EXPECT_EQ(first_line_of([] { read("{hook_point: h, type: relu_l1, decoder_init_norm: 0}"); }),
            "a.yaml:1:51: sae[0].decoder_init_norm = 0 is not above 0");
}

TEST(SaeConfigTest, TheFormDecidesDefaultsButNotWhatIsGiven) {
  const auto april = read("{hook_point: h, type: relu_l1}");
  EXPECT_EQ(dynamic_cast<const ReluL1Config&>(*april).form, "april");
  EXPECT_EQ(dynamic_cast<const ReluL1Config&>(*april).decoder_init_norm, 0.1);
  const auto bricken = read("{hook_point: h, type: relu_l1, form: bricken}");
  EXPECT_EQ(bricken->decoder_bias_init, "geometric_median");
  EXPECT_EQ(dynamic_cast<const ReluL1Config&>(*bricken).decoder_init_norm, 1);
  const auto given = read("{hook_point: h, decoder_bias_init: zero, type: relu_l1, form: bricken}");
  EXPECT_EQ(given->decoder_bias_init, "zero");
  ConfigWriter writer;
  given->declare(writer);
  EXPECT_EQ(read(to_yaml(writer.json()))->decoder_bias_init, "zero") << "a resolved file keeps it";
}

TEST(SaeConfigTest, RefusesFieldsThatTheFormHasNoUseFor) {
  EXPECT_EQ(first_line_of([] { read("{hook_point: h, type: relu_l1, resample_every_tokens: 5}"); }),
            "a.yaml:1:55: sae[0].resample_every_tokens has no use with form: april");
  EXPECT_EQ(first_line_of([] {
              read("{hook_point: h, type: relu_l1, form: bricken, decoder_init_norm: 0.1}");
            }),
            "a.yaml:1:66: sae[0].decoder_init_norm = 0.1 with form: bricken");
  EXPECT_EQ(first_line_of([] { read("{hook_point: h, type: relu_l1, sparsity_floor: 0.5}"); }),
            "a.yaml:1:48: sae[0].sparsity_floor = 0.5 needs sparsity_decay_tokens");
}

TEST(SaeConfigTest, TheRecipeDecidesDefaultsOfJumpRelu) {
  const auto gdm = read("{hook_point: h, type: jumprelu}");
  const auto& first = dynamic_cast<const JumpReluConfig&>(*gdm);
  EXPECT_EQ(first.recipe, "gdm");
  EXPECT_EQ(first.first_threshold(), 0.001);
  EXPECT_EQ(first.input_mean_square(64), 1);
  const auto target = read("{hook_point: h, type: jumprelu, recipe: target_l0}");
  EXPECT_EQ(dynamic_cast<const JumpReluConfig&>(*target).sparsity_coefficient, 1);
  const auto anthropic = read("{hook_point: h, bandwidth: 1, type: jumprelu, recipe: anthropic}");
  const auto& last = dynamic_cast<const JumpReluConfig&>(*anthropic);
  EXPECT_EQ(last.bandwidth, 1) << "what is given is kept";
  EXPECT_EQ(last.sparsity_coefficient, 20);
  EXPECT_EQ(last.first_threshold(), 0.1);
  EXPECT_TRUE(last.has_log_threshold());
  EXPECT_EQ(last.input_mean_square(64), 64);
  EXPECT_EQ(last.initial_l0_of(1000), 250);
  EXPECT_EQ(last.initial_l0_of(1 << 20), 10000);
  const auto in_logs =
      read("{hook_point: h, type: jumprelu, recipe: anthropic, initial_log_threshold: 0.1}");
  EXPECT_NEAR(dynamic_cast<const JumpReluConfig&>(*in_logs).first_threshold(), 1.10517, 1e-5);
}

TEST(SaeConfigTest, RampsThePenaltyOfJumpReluInTokens) {
  JumpReluConfig config;
  config.recipe = "anthropic";
  config.use_form_defaults();
  EXPECT_EQ(config.sparsity_at(0, 1000), 0);
  EXPECT_EQ(config.sparsity_at(250, 1000), 5);
  EXPECT_EQ(config.sparsity_at(999, 1000), 20 * 0.999);
  config.sparsity_warmup_tokens = 100;
  EXPECT_EQ(config.sparsity_at(50, 1000), 10);
  EXPECT_EQ(config.sparsity_at(100, 1000), 20);
  config.name = "j";
  EXPECT_EQ(first_line_of([&] { config.check_lengths(99); }),
            "sae j.sparsity_warmup_tokens = 100 does not fit into train.total_tokens = 99");
  config.check_lengths(100);
}

TEST(SaeConfigTest, RefusesFieldsThatTheRecipeHasNoUseFor) {
  EXPECT_EQ(first_line_of([] { read("{hook_point: h, type: jumprelu, target_l0: 30}"); }),
            "a.yaml:1:44: sae[0].target_l0 has no use with recipe: gdm");
  EXPECT_EQ(first_line_of([] { read("{hook_point: h, type: jumprelu, tanh_scale: 1}"); }),
            "a.yaml:1:45: sae[0].tanh_scale has no use with recipe: gdm");
  EXPECT_EQ(first_line_of([] { read("{hook_point: h, type: jumprelu, initial_l0: 5}"); }),
            "a.yaml:1:45: sae[0].initial_l0 has no use with recipe: gdm");
  EXPECT_EQ(first_line_of([] {
              read(
                  "{hook_point: h, type: jumprelu, initial_threshold: 1, initial_log_threshold: "
                  "1}");
            }),
            "a.yaml:1:78: sae[0].initial_log_threshold stands beside initial_threshold");
}

TEST(SaeConfigTest, AnnealsKOnlyDownwardsAndOverALengthOfTime) {
  EXPECT_EQ(first_line_of([] { read("{hook_point: h, type: topk, k_start: 16}"); }),
            "a.yaml:1:38: sae[0].k_start = 16 is less than k = 32");
  EXPECT_EQ(first_line_of([] { read("{hook_point: h, type: topk, k_start: 64}"); }),
            "a.yaml:1:38: sae[0].k_start = 64 needs k_anneal_tokens");
  EXPECT_EQ(first_line_of([] { read("{hook_point: h, type: topk, k_anneal_tokens: 64}"); }),
            "a.yaml:1:46: sae[0].k_anneal_tokens = 64 needs k_start");
  TopKConfig config;
  config.k = 4;
  EXPECT_EQ(config.k_at(0), 4);
  config.k_start = 8;
  config.k_anneal_tokens = 1000;
  std::vector<std::int64_t> ks;
  for (const std::int64_t tokens : {0, 249, 250, 500, 999, 1000, 5000}) {
    ks.push_back(config.k_at(tokens));
  }
  EXPECT_EQ(ks, (std::vector<std::int64_t>{8, 8, 7, 6, 5, 4, 4}));
}

TEST(SaeConfigTest, KnowsEveryTypeOfTheRegistry) {
  EXPECT_EQ(sae_types(), (std::vector<std::string>{"topk", "batch_topk", "relu_l1", "jumprelu"}));
  for (const std::string& type : sae_types()) {
    EXPECT_EQ(default_sae_config(type)->type, type);
    EXPECT_EQ(make_training_sae(*default_sae_config(type), 40)->n_latents(), 160);
  }
}

TEST(InputTransformTest, ScalesTheDeviationFromTheCentreToTheWidth) {
  activation_cache::SourceStatistics statistics{
      .n_rows = 10, .mean = {1, 2}, .mean_squared_norm = 50, .mean_squared_deviation = 8};
  TopKConfig config;
  config.name = "a";
  config.hook_point = "h";
  const InputTransform both = make_input_transform(config, statistics);
  EXPECT_EQ(both.centre, (std::vector<double>{1, 2}));
  EXPECT_EQ(both.scale, 0.5);  // sqrt(2 / 8)
  config.centre_inputs = false;
  const InputTransform scaled = make_input_transform(config, statistics);
  EXPECT_EQ(scaled.centre, (std::vector<double>{0, 0}));
  EXPECT_EQ(scaled.scale, 0.2);  // sqrt(2 / 50)
  config.scale_inputs = false;
  EXPECT_EQ(make_input_transform(config, statistics).scale, 1.0);
}

TEST(InputTransformTest, RefusesToScaleConstantActivations) {
  activation_cache::SourceStatistics statistics{
      .n_rows = 10, .mean = {1, 2}, .mean_squared_norm = 5, .mean_squared_deviation = 0};
  TopKConfig config;
  config.name = "a";
  config.hook_point = "h";
  EXPECT_EQ(first_line_of([&] { make_input_transform(config, statistics); }),
            "sae a: the activations of h cannot be scaled: their rows are all equal");
}

}  // namespace
}  // namespace thresher::sae
