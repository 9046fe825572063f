#include "trainer/step.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

/// Its gradient of W is the sum of all rows of the batch, twice; that of b is the number of rows.
/// Writes down what is called.
class CountingSae : public sae::TrainingSae {
 public:
  CountingSae() {
    d_in_ = 2;
    n_latents_ = 2;
    config_.name = "counting";
    W_ = at::tensor({1.0F, 2.0F, 3.0F, 4.0F}).view({2, 2}).t();  // latent-major, as topk keeps it
    b_ = at::zeros({1});
    parameters_ = {{"W_enc", W_, at::zeros_like(W_)}, {"b_enc", b_, at::zeros_like(b_)}};
  }
  const sae::SaeConfig& config() const override { return config_; }
  void initialise(std::uint64_t, const at::Tensor&) override {}
  void begin_step(const sae::StepInfo& info) override {
    calls += "begin ";
    parameters_[0].gradient.zero_();
    rows_ = 0;
    info_ = info;
  }
  void forward(std::int64_t lane, const at::Tensor& x) override {
    calls += "forward" + std::to_string(lane) + " ";
    lanes_.resize(static_cast<std::size_t>(lane + 1));
    lanes_.back() = x.sum(0);
    rows_ += static_cast<float>(x.size(0));
  }
  void reduce_forward(comm::Communicator&) override { calls += "reduce "; }
  void backward(std::int64_t lane) override {
    calls += "backward" + std::to_string(lane) + " ";
    parameters_[0].gradient.add_(lanes_[static_cast<std::size_t>(lane)].unsqueeze(1));
  }
  void finish_local() override {
    calls += "local ";
    parameters_[1].gradient.fill_(rows_);
  }
  void finish_gradients() override {
    calls += "gradients ";
    if (spoil) parameters_[1].gradient.fill_(std::numeric_limits<float>::infinity());
  }
  Json finish_step(comm::Communicator&) override {
    calls += "finish";
    return Json::object({{"loss", 1.5}});
  }
  std::vector<sae::Parameter>& parameters() override { return parameters_; }
  std::vector<std::pair<std::string, at::Tensor>> buffers() override { return {}; }
  sae::InferenceSae to_inference(const sae::InputTransform&) const override { return {}; }

  std::string calls;
  bool spoil = false;
  const at::Tensor& W() const { return W_; }

 private:
  sae::SaeConfig config_;
  sae::StepInfo info_;
  at::Tensor W_, b_;
  float rows_ = 0;
  std::vector<at::Tensor> lanes_;
  std::vector<sae::Parameter> parameters_;
};

TrainConfig plain_config() {
  TrainConfig config;
  config.total_tokens = 80;
  config.batch_tokens = 8;
  config.lanes = 2;
  config.learning_rate = 0.5;
  config.clip_gradient_norm = 0;
  return config;
}

sae::StepInfo info_of(std::int64_t step, std::int64_t n_local_lanes) {
  sae::StepInfo info;
  info.step = step;
  info.tokens_before = 8 * step;
  info.total_tokens = 80;
  info.batch_tokens = 8;
  info.n_local_lanes = n_local_lanes;
  return info;
}

/// Column sums over both lanes: 3 and -4, with 8 rows.
std::vector<at::Tensor> two_lanes() {
  at::Tensor a = at::zeros({4, 2}), b = at::zeros({4, 2});
  a[0][0] = 1;
  a[3][1] = -6;
  b[1][0] = 2;
  b[2][1] = 2;
  return {a, b};
}

TEST(StepTest, CallsTheSaeInTheOrderOfItsContract) {
  CountingSae sae;
  Step step(sae, plain_config());
  step.run(info_of(0, 2), two_lanes(), *comm::make_self_communicator());
  EXPECT_EQ(sae.calls, "begin forward0 forward1 reduce backward0 backward1 local gradients finish");
}

TEST(StepTest, ReportsTheNormOverAllParameters) {
  CountingSae sae;
  Step step(sae, plain_config());
  const Json figures = step.run(info_of(0, 2), two_lanes(), *comm::make_self_communicator());
  // W_enc's gradient is [[3, 3], [-4, -4]], b_enc's is 8: 9 + 9 + 16 + 16 + 64.
  EXPECT_EQ(figures.at("gradient_norm").as_double(), std::sqrt(114.0));
  EXPECT_EQ(figures.at("learning_rate").as_double(), 0.5);
  EXPECT_EQ(figures.at("loss").as_double(), 1.5);
}

TEST(StepTest, MovesEveryWeightByTheLearningRateAgainstItsGradientAtFirst) {
  CountingSae sae;
  Step step(sae, plain_config());
  step.run(info_of(0, 2), two_lanes(), *comm::make_self_communicator());
  // Adam's first step is the sign of the gradient times the rate, but for epsilon.
  EXPECT_TRUE(at::allclose(sae.W(), at::tensor({0.5F, 2.5F, 2.5F, 4.5F}).view({2, 2}), 1e-6, 1e-6))
      << sae.W();
  EXPECT_FLOAT_EQ(step.moments()[0].m[0][0].item().toFloat(), 0.1F * 3);
  EXPECT_FLOAT_EQ(step.moments()[0].v[1][0].item().toFloat(), 0.001F * 16);
}

TEST(StepTest, ScalesGradientsDownToTheClipNormAndReportsTheUnclippedOne) {
  CountingSae sae;
  TrainConfig config = plain_config();
  config.clip_gradient_norm = std::sqrt(114.0) / 2;
  Step step(sae, config);
  const Json figures = step.run(info_of(0, 2), two_lanes(), *comm::make_self_communicator());
  EXPECT_EQ(figures.at("gradient_norm").as_double(), std::sqrt(114.0));
  EXPECT_FLOAT_EQ(step.moments()[0].m[0][0].item().toFloat(), 0.1F * 1.5F);
  EXPECT_FLOAT_EQ(step.moments()[1].v[0].item().toFloat(), 0.001F * 16);
}

TEST(StepTest, KeepsMomentsInTheLayoutOfTheirWeights) {
  CountingSae sae;
  Step step(sae, plain_config());
  EXPECT_EQ(step.moments()[0].m.strides(), sae.W().strides());
}

TEST(StepTest, TwoRanksTakeTheStepOfOne) {
  CountingSae alone;
  Step step(alone, plain_config());
  step.run(info_of(0, 2), two_lanes(), *comm::make_self_communicator());
  comm::run_thread_ranks(2, 30, [&](comm::Communicator& comm) {
    CountingSae sae;
    Step half(sae, plain_config());
    const Json figures = half.run(info_of(0, 1), {two_lanes()[comm.rank()]}, comm);
    EXPECT_EQ(figures.at("gradient_norm").as_double(), std::sqrt(114.0));
    EXPECT_TRUE(at::equal(sae.W(), alone.W()));
  });
}

TEST(StepTest, ANanInARowStopsEveryRankAndChangesNothing) {
  comm::run_thread_ranks(2, 30, [&](comm::Communicator& comm) {
    CountingSae sae;
    Step step(sae, plain_config());
    std::vector<at::Tensor> lanes{two_lanes()[comm.rank()]};
    if (comm.rank() == 1) lanes[0][2][1] = std::numeric_limits<float>::quiet_NaN();
    const at::Tensor before = sae.W().clone();
    EXPECT_EQ(
        first_line_of([&] { step.run(info_of(3, 1), lanes, comm); }),
        "SAE counting, step 3: the gradient norm is not finite; the first bad value is in the "
        "input, lane 1 row 2");
    EXPECT_TRUE(at::equal(sae.W(), before));
    EXPECT_EQ(at::count_nonzero(step.moments()[0].m).item().toLong(), 0);
    EXPECT_EQ(sae.calls.find("finish"), std::string::npos) << "the SAE's own state must not move";
  });
}

TEST(StepTest, NamesTheGradientWhenInputsAndWeightsAreSound) {
  CountingSae sae;
  sae.spoil = true;
  Step step(sae, plain_config());
  EXPECT_EQ(
      first_line_of([&] { step.run(info_of(3, 2), two_lanes(), *comm::make_self_communicator()); }),
      "SAE counting, step 3: the gradient norm is not finite; the first bad value is in the "
      "gradient of b_enc");
}

}  // namespace
}  // namespace thresher::trainer
