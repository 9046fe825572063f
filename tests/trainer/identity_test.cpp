#include "trainer/identity.h"

#include <gtest/gtest.h>

#include <set>

#include "training_testing.h"

namespace thresher::trainer {
namespace {

/// Fields of the first release; whatever came later was not written by it.
const std::set<std::string> kFirstTrainFields = {"total_tokens",
                                                 "batch_tokens",
                                                 "lanes",
                                                 "shuffle_window_tokens",
                                                 "learning_rate",
                                                 "warmup_tokens",
                                                 "decay_tokens",
                                                 "beta1",
                                                 "beta2",
                                                 "epsilon",
                                                 "clip_gradient_norm",
                                                 "init_sample_rows"};
const std::set<std::string> kFirstSaeFields = {"name",
                                               "hook_point",
                                               "type",
                                               "expansion_factor",
                                               "n_latents",
                                               "centre_inputs",
                                               "scale_inputs",
                                               "decoder_bias_init",
                                               "dead_window_tokens",
                                               "k",
                                               "aux_k",
                                               "aux_coefficient",
                                               "l1_coefficient",
                                               "sparsity_warmup_fraction",
                                               "decoder_init_norm"};

Json only(const Json& fields, const std::set<std::string>& names) {
  Json out = Json::object();
  for (const auto& [name, value] : fields.as_object()) {
    if (names.contains(name)) out[name] = value;
  }
  return out;
}

/// The identity as the first release wrote it.
Json first_release(const Json& identity) {
  Json out = identity;
  out["run"] = only(identity.at("run"), {"seed"});
  out["train"] = only(identity.at("train"), kFirstTrainFields);
  out["sae"] = Json::array();
  for (const Json& sae : identity.at("sae").as_array()) {
    out["sae"].push_back(only(sae, kFirstSaeFields));
  }
  return out;
}

class IdentityTest : public testing::Test {
 protected:
  std::string difference(const TrainJob& job) {
    return first_line_of(
        [&] { check_same_identity(saved, training_identity(job, source), "step-1"); });
  }

  activation_cache::SyntheticSource source{tiny_world()};
  Json saved = first_release(training_identity(tiny_job("", 40), source));
};

TEST_F(IdentityTest, AcceptsACheckpointFromBeforeNewFieldsWereThere) {
  ASSERT_EQ(saved.at("train").find("ema_decay"), nullptr);
  ASSERT_EQ(saved.at("sae").as_array()[1].find("form"), nullptr);
  EXPECT_EQ(difference(tiny_job("", 40)), "no error");
}

TEST_F(IdentityTest, RefusesANewFieldThatIsNotAtItsDefault) {
  TrainJob job = tiny_job("", 40);
  job.config.ema_decay = 0.9;
  EXPECT_EQ(difference(job),
            "step-1: was made with another configuration: train.ema_decay: 0.0, 0.9");
  job = tiny_job("", 40);
  job.saes[0]->train.learning_rate = 0.5;
  EXPECT_EQ(difference(job),
            "step-1: was made with another configuration: sae[0].learning_rate: \"auto\", 0.5");
}

TEST_F(IdentityTest, RefusesToGoOnWithOnADeviceWhatAnotherBegan) {
  TrainJob job = tiny_job("", 40);
  job.device = Device::kCuda;
  EXPECT_EQ(difference(job),
            "step-1: was made with another configuration: run.device: \"cpu\", \"cuda\"");
}

TEST_F(IdentityTest, RefusesAnOldFieldThatIsMissing) {
  Json& train = saved["train"];
  train = only(train, {"total_tokens", "batch_tokens"});
  TrainJob job = tiny_job("", 40);
  EXPECT_EQ(difference(job),
            "step-1: was made with another configuration: train.learning_rate: 0.001, 0.003");
}

}  // namespace
}  // namespace thresher::trainer
