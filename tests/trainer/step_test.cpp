#include "trainer/step.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "sae/relu_l1_sae.h"
#include "sae/topk_sae.h"
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
    parameters_ = {{"W_enc", W_, at::zeros_like(W_), 1}, {"b_enc", b_, at::zeros_like(b_)}};
  }
  const sae::SaeConfig& config() const override { return config_; }
  void initialise(std::uint64_t, const at::Tensor&) override {}
  void begin_step(const sae::StepInfo& info) override {
    calls += "begin ";
    parameters_[0].gradient.zero_();
    rows_ = 0;
    info_ = info;
  }
  void forward(const std::vector<at::Tensor>& lanes, comm::Communicator&) override {
    calls += "forward" + std::to_string(lanes.size()) + " ";
    lanes_.clear();
    for (const at::Tensor& x : lanes) {
      lanes_.push_back(x.sum(0));
      rows_ += static_cast<float>(x.size(0));
    }
  }
  void backward() override {
    calls += "backward ";
    for (const at::Tensor& lane : lanes_) parameters_[0].gradient.add_(lane.unsqueeze(1));
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

  const std::vector<std::int64_t>& replaced_latents() const override { return replaced; }

  std::string calls;
  bool spoil = false;
  std::vector<std::int64_t> replaced;
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
  EXPECT_EQ(sae.calls, "begin forward2 backward gradients finish");
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

TEST(StepTest, ReportsTheNormsOfParametersAndUpdateWhenAsked) {
  CountingSae sae;
  Step step(sae, plain_config());
  const auto comm = comm::make_self_communicator();
  const Json figures = step.run(info_of(0, 2), two_lanes(), *comm, true);
  EXPECT_EQ(figures.at("parameter_norm").as_double(), std::sqrt(30.0)) << "before the update";
  EXPECT_NEAR(figures.at("update_norm").as_double(), std::sqrt(5 * 0.25), 1e-6);
  const Json without = step.run(info_of(1, 2), two_lanes(), *comm);
  EXPECT_EQ(without.find("update_norm"), nullptr);
  EXPECT_EQ(without.find("parameter_norm"), nullptr);
}

TEST(StepTest, LeavesOutWhatIsParallelToUnitRowsAndScalesThemBack) {
  for (const bool wants_norms : {false, true}) {
    CountingSae sae;
    sae.parameters()[0].has_unit_rows = true;
    Step step(sae, plain_config());
    const Json figures =
        step.run(info_of(0, 2), two_lanes(), *comm::make_self_communicator(), wants_norms);
    // The rows (1, 2) and (3, 4) have the gradient (3, -4) each; (4, -2) and (3.84, -2.88) are
    // perpendicular to them.
    EXPECT_NEAR(figures.at("gradient_norm").as_double(), std::sqrt(20 + 23.04 + 64), 1e-12);
    const at::Tensor& m = step.moments()[0].m;
    EXPECT_FLOAT_EQ(m[0][0].item().toFloat(), 0.1F * 4);
    EXPECT_FLOAT_EQ(m[1][1].item().toFloat(), 0.1F * -2.88F);
    const at::Tensor expected = at::tensor({0.5, 2.5, 2.5, 4.5}).view({2, 2}).t();
    EXPECT_TRUE(
        at::allclose(sae.W(), (expected / expected.norm(2, 0, true)).to(at::kFloat), 1e-6, 1e-6))
        << sae.W();
    if (!wants_norms) continue;
    EXPECT_EQ(figures.at("parameter_norm").as_double(), std::sqrt(30.0));
    EXPECT_NEAR(figures.at("update_norm").as_double(), std::sqrt(5 * 0.25), 1e-6)
        << "before the rows are scaled back";
  }
}

TEST(StepTest, NormsOfManyBlocksEqualBruteForceAndLeaveTheUpdateAsItIs) {
  sae::ReluL1Config config;
  config.name = "r";
  config.n_latents = 3000;
  const auto comm = comm::make_self_communicator();
  at::Tensor x = at::arange(64 * 96, at::kFloat).sin().view({64, 96});
  std::vector<at::Tensor> ends;
  for (const bool wants_norms : {true, false}) {
    sae::ReluL1Sae sae(config, 96);
    sae.initialise(1, x);
    std::vector<at::Tensor> before;
    for (const sae::Parameter& p : sae.parameters()) before.push_back(p.weight.clone());
    Step step(sae, plain_config());
    sae::StepInfo info = info_of(0, 1);
    info.batch_tokens = 64;
    const Json figures = step.run(info, {x}, *comm, wants_norms);
    ends.push_back(sae.parameters()[0].weight);
    if (!wants_norms) continue;
    double squares = 0, changed = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      const at::Tensor old = before[i].to(at::kDouble);
      const at::Tensor now = sae.parameters()[i].weight.to(at::kDouble);
      squares += old.square().sum().item<double>();
      changed += (now - old).square().sum().item<double>();
    }
    EXPECT_NEAR(figures.at("parameter_norm").as_double(), std::sqrt(squares), 1e-9);
    EXPECT_NEAR(figures.at("update_norm").as_double() / std::sqrt(changed), 1, 1e-6);
  }
  EXPECT_TRUE(at::equal(ends[0], ends[1]));
}

TEST(StepTest, AveragesWeightsPlainlyAtFirstAndExponentiallyThen) {
  CountingSae sae;
  TrainConfig config = plain_config();
  config.ema_decay = 0.6;
  Step step(sae, config);
  const auto comm = comm::make_self_communicator();
  std::vector<at::Tensor> weights;
  for (int i = 0; i < 4; ++i) {
    step.run(info_of(i, 2), two_lanes(), *comm);
    weights.push_back(sae.W().clone());
  }
  at::Tensor expected = (weights[0] + weights[1]) / 2;
  expected = 0.6 * expected + 0.4 * weights[2];  // 2/3 is more than the decay already
  expected = 0.6 * expected + 0.4 * weights[3];
  const at::Tensor& average = step.average().tensors()[0];
  EXPECT_TRUE(at::allclose(average, expected, 1e-6, 1e-6)) << average << expected;
  EXPECT_EQ(average.strides(), sae.W().strides());
  CountingSae other;
  EXPECT_TRUE(Step(other, plain_config()).average().tensors().empty());
}

TEST(StepTest, ForgetsWhatItKnewOfReplacedLatentsAndNothingElse) {
  CountingSae sae;
  TrainConfig config = plain_config();
  config.ema_decay = 0.6;
  Step step(sae, config);
  const auto comm = comm::make_self_communicator();
  step.run(info_of(0, 2), two_lanes(), *comm);
  sae.replaced = {1};
  step.run(info_of(1, 2), two_lanes(), *comm);
  const Moments& moments = step.moments()[0];
  EXPECT_EQ(at::count_nonzero(moments.m.select(1, 1)).item().toLong(), 0);
  EXPECT_EQ(at::count_nonzero(moments.v.select(1, 1)).item().toLong(), 0);
  EXPECT_EQ(at::count_nonzero(moments.m.select(1, 0)).item().toLong(), 2);
  EXPECT_EQ(at::count_nonzero(moments.v.select(1, 0)).item().toLong(), 2);
  EXPECT_EQ(at::count_nonzero(step.moments()[1].m).item().toLong(), 1) << "no latent dimension";
  const at::Tensor& average = step.average().tensors()[0];
  EXPECT_TRUE(at::equal(average.select(1, 1), sae.W().select(1, 1)));
  EXPECT_FALSE(at::equal(average.select(1, 0), sae.W().select(1, 0)));
}

TEST(WeightAverageTest, IsWhatIsExportedWithUnitDecoderRows) {
  sae::TopKConfig config;
  config.name = "t";
  config.n_latents = 20;
  config.k = 3;
  sae::TopKSae sae(config, 8);
  const at::Tensor x = at::arange(64 * 8, at::kFloat).sin().view({64, 8});
  sae.initialise(1, x);
  TrainConfig train = plain_config();
  train.ema_decay = 0.9;
  Step step(sae, train);
  for (int i = 0; i < 5; ++i) {
    sae::StepInfo info = info_of(i, 1);
    info.batch_tokens = 64;
    info.dead_window_tokens = 1000;
    step.run(info, {x}, *comm::make_self_communicator());
  }
  const at::Tensor W_enc = sae.parameters()[0].weight.clone();
  const sae::InferenceSae out = step.average().to_inference({std::vector<double>(8, 0.0), 1});
  EXPECT_TRUE(at::equal(out.W_enc, step.average().tensors()[0].contiguous()));
  EXPECT_LE((out.W_dec.norm(2, 1) - 1).abs().max().item().toFloat(), 1e-6F);
  EXPECT_GT((step.average().tensors()[2].norm(2, 1) - 1).abs().max().item().toFloat(), 1e-4F)
      << "an average of unit rows is shorter";
  EXPECT_TRUE(at::equal(sae.parameters()[0].weight, W_enc)) << "training goes on from the weights";
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
