// The training step computes on pairs, tiles and lanes what few lines of dense autograd say. Both
// train here from the same weights on the same batches in float32, and their losses must agree as
// well as two orders of summation of the dense path do.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include "core/random.h"
#include "sae/jumprelu_config.h"
#include "tests/sae/topk_reference.h"
#include "trainer/step.h"

namespace thresher::trainer {
namespace {

using Tensors = std::vector<at::Tensor>;

constexpr std::int64_t kDim = 16;
constexpr std::int64_t kLatents = 128;
constexpr std::int64_t kTokens = 128;
constexpr std::int64_t kSteps = 200;
constexpr std::int64_t kEarlySteps = 20;
constexpr std::int64_t kDeadWindow = 3 * kTokens;
constexpr std::int64_t kWeakLatents = 32;  // that TopK hardly reaches, but AuxK does
constexpr std::int64_t kLanes = 8;

at::Tensor normal_values(at::IntArrayRef shape, std::uint64_t seed) {
  at::Tensor out = at::empty(shape, at::kFloat);
  const RandomStream stream(seed, "tests.loss_curve");
  auto* values = out.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < out.numel(); ++i) {
    values[i] = static_cast<float>(stream.normal(static_cast<std::uint64_t>(i)));
  }
  return out;
}

/// Sparse sums of four times as many directions as dimensions, and noise, of mean norm sqrt(kDim).
const Tensors& batches() {
  static const Tensors all = [] {
    Tensors out;
    const at::Tensor directions = normal_values({4 * kDim, kDim}, 1);
    for (std::uint64_t step = 0; step < kSteps; ++step) {
      const at::Tensor codes = (normal_values({kTokens, 4 * kDim}, 100 + 2 * step) - 1.3).relu();
      const at::Tensor noise = normal_values({kTokens, kDim}, 101 + 2 * step) * 0.1;
      const at::Tensor x = at::mm(codes, directions) + noise;
      out.push_back(x / x.norm(2, 1).mean() * std::sqrt(static_cast<double>(kDim)));
    }
    return out;
  }();
  return all;
}

TrainConfig train_config() {
  TrainConfig config;
  config.batch_tokens = kTokens;
  config.total_tokens = kSteps * kTokens;
  config.lanes = kLanes;
  config.learning_rate = 2e-3;
  return config;
}

sae::StepInfo step_info(std::int64_t step) {
  return {.step = step,
          .tokens_before = step * kTokens,
          .total_tokens = kSteps * kTokens,
          .batch_tokens = kTokens,
          .dead_window_tokens = kDeadWindow,
          .n_local_lanes = kLanes};
}

std::unique_ptr<sae::TrainingSae> start(const sae::SaeConfig& config) {
  auto out = sae::make_training_sae(config, kDim);
  out->initialise(3, batches()[0]);
  out->parameters()[0].weight.slice(1, 0, kWeakLatents).mul_(0.1);
  return out;
}

struct Curve {
  std::vector<double> losses;
  std::int64_t aux_steps = 0;              // whose loss has a part of AuxK
  std::vector<std::int64_t> dead_latents;  // after every step
};

Curve fast_curve(const sae::SaeConfig& config) {
  const auto sae = start(config);
  const auto comm = comm::make_self_communicator();
  Step step(*sae, train_config());
  Curve out;
  for (std::size_t i = 0; i < kSteps; ++i) {
    const Json figures =
        step.run(step_info(static_cast<std::int64_t>(i)), batches()[i].chunk(kLanes), *comm);
    out.losses.push_back(figures.at("loss").as_double());
    out.dead_latents.push_back(figures.at("dead_latents").as_int());
    const Json* aux = figures.find("aux_loss");
    if (aux != nullptr && aux->as_double() > 0) ++out.aux_steps;
  }
  return out;
}

/// A variant as dense autograd: the loss of parameters (which want gradients) on x, after what
/// earlier steps decide.
struct PlainVariant {
  std::function<at::Tensor(const Tensors& parameters, const at::Tensor& x)> loss;
  bool has_unit_rows = true;
};

/// Clipping, Adam and unit rows in whole tensors.
class PlainTrainer {
 public:
  PlainTrainer(const sae::SaeConfig& config, PlainVariant variant) : variant_(std::move(variant)) {
    const auto sae = start(config);
    for (const sae::Parameter& parameter : sae->parameters()) {
      parameters_.push_back(parameter.weight.contiguous().clone());
      factors_.push_back(parameter.learning_rate_factor);
      m_.push_back(at::zeros_like(parameters_.back()));
      v_.push_back(at::zeros_like(parameters_.back()));
    }
  }

  double run(const at::Tensor& x) {
    Tensors leaves;
    for (const at::Tensor& parameter : parameters_) {
      leaves.push_back(parameter.detach().clone().requires_grad_(true));
    }
    const at::Tensor loss = variant_.loss(leaves, x);
    loss.backward();
    Tensors gradients;
    for (const at::Tensor& leaf : leaves) gradients.push_back(leaf.grad());
    update(std::move(gradients));
    return loss.item<double>();
  }

 private:
  void update(Tensors gradients) {
    if (variant_.has_unit_rows) {
      const at::Tensor& W = parameters_[2];
      const at::Tensor along = (gradients[2] * W).sum(1, true) / (W * W).sum(1, true);
      gradients[2] = gradients[2] - along * W;
    }
    double squares = 0;
    for (const at::Tensor& g : gradients)
      squares += g.to(at::kDouble).square().sum().item<double>();
    const TrainConfig config = train_config();
    const double scale = std::min(1.0, config.clip_gradient_norm / std::sqrt(squares));
    ++step_;
    for (std::size_t p = 0; p < parameters_.size(); ++p) {
      const at::Tensor g = gradients[p] * scale;
      m_[p].mul_(config.beta1).add_(g, 1 - config.beta1);
      v_[p].mul_(config.beta2).addcmul_(g, g, 1 - config.beta2);
      const at::Tensor root = v_[p].sqrt() / std::sqrt(1 - std::pow(config.beta2, step_));
      parameters_[p].addcdiv_(
          m_[p], root + config.epsilon,
          -config.learning_rate * factors_[p] / (1 - std::pow(config.beta1, step_)));
    }
    if (variant_.has_unit_rows) parameters_[2].div_(parameters_[2].norm(2, 1, true));
    if (parameters_.size() == 5) parameters_[4].clamp_(0);  // thresholds
  }

  PlainVariant variant_;
  Tensors parameters_, m_, v_;
  std::vector<double> factors_;
  double step_ = 0;
};

/// TopK and BatchTopK, with which latents are dead.
PlainVariant plain_topk(const sae::TopKConfig& config, bool over_batch) {
  const auto silent = std::make_shared<at::Tensor>(at::zeros({kLatents}, at::kLong));
  return {[=](const Tensors& p, const at::Tensor& x) {
    sae::testing::TopKReference reference;
    for (std::size_t i = 0; i < 4; ++i) reference.parameters[i] = p[i].detach();
    reference.x = x;
    reference.over_batch = over_batch;
    reference.mean_squared_input = static_cast<double>(kDim);
    std::vector<std::int64_t> dead;
    for (std::int64_t i = 0; i < kLatents; ++i) {
      if (silent->const_data_ptr<std::int64_t>()[i] >= kDeadWindow) dead.push_back(i);
    }
    const auto n_dead = static_cast<double>(dead.size());
    if (!dead.empty()) {
      reference.aux_weight =
          config.aux_coefficient * std::min(1.0, n_dead / static_cast<double>(*config.aux_k));
    }
    reference.select(config.k, *config.aux_k, dead);
    const at::Tensor pre_acts = at::mm(x - reference.parameters[3], reference.parameters[0]);
    const at::Tensor fired =
        ((pre_acts + reference.parameters[1]).gt(0) * reference.main_mask).sum(0).gt(0);
    *silent = at::where(fired, at::zeros_like(*silent), *silent + kTokens);
    return reference.loss({p[0], p[1], p[2], p[3]});
  }};
}

PlainVariant plain_relu_l1(const sae::ReluL1Config& config) {
  return {[=](const Tensors& p, const at::Tensor& x) {
            const at::Tensor f = (at::mm(x, p[0]) + p[1]).relu();
            const at::Tensor error = x - at::mm(f, p[2]) - p[3];
            const at::Tensor norms = p[2].square().sum(1).sqrt();
            return (error.square().sum() + config.l1_coefficient * (f * norms).sum()) /
                   static_cast<double>(kTokens);
          },
          false};
}

/// The recipe gdm, thresholds trained directly. Its straight-through slopes are those of straight
/// lines through where the parameters are.
PlainVariant plain_jumprelu(const sae::JumpReluConfig& config) {
  return {[=](const Tensors& p, const at::Tensor& x) {
    const at::Tensor z = at::mm(x, p[0]) + p[1], theta = p[4].detach();
    const at::Tensor active = z.detach().gt(theta).to(at::kFloat);
    const at::Tensor window =
        (z.detach() - theta).abs().lt(0.5 * config.bandwidth).to(at::kFloat) / config.bandwidth;
    const at::Tensor moved = theta - p[4];
    const at::Tensor f = z * active + theta * window * moved;
    const at::Tensor error = x - at::mm(f, p[2]) - p[3];
    const at::Tensor l0 = (active + window * moved).sum();
    return (error.square().sum() + config.sparsity_coefficient * l0) / static_cast<double>(kTokens);
  }};
}

/// `order` of the rows of each batch.
Curve plain_curve(const sae::SaeConfig& config, const PlainVariant& variant,
                  const std::function<at::Tensor(const at::Tensor&)>& order) {
  PlainTrainer trainer(config, variant);
  Curve out;
  for (const at::Tensor& x : batches()) out.losses.push_back(trainer.run(order(x)));
  return out;
}

/// The largest relative difference over the first steps.
double distance(const Curve& a, const Curve& b, std::int64_t steps) {
  double out = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(steps); ++i) {
    out = std::max(out, std::abs(a.losses[i] / b.losses[i] - 1));
  }
  return out;
}

/// Trains both ways and compares; the fast way's curve.
Curve compare(const sae::SaeConfig& config, const std::function<PlainVariant()>& variant) {
  const std::vector<std::function<at::Tensor(const at::Tensor&)>> orders = {
      [](const at::Tensor& x) { return x; },
      [](const at::Tensor& x) { return x.flip(0).contiguous(); },
      [](const at::Tensor& x) { return x.roll(1, 0).contiguous(); },
      [](const at::Tensor& x) { return x.roll(kTokens / 3, 0).contiguous(); }};
  Curve fast = fast_curve(config);
  EXPECT_LT(fast.losses.back(), 0.9 * fast.losses.front()) << "training goes on";
  std::vector<Curve> plain;
  double nearest = std::numeric_limits<double>::infinity(), between_orders = 0;
  for (const auto& order : orders) {
    const Curve curve = plain_curve(config, variant(), order);
    for (const Curve& other : plain) {
      between_orders = std::max(between_orders, distance(curve, other, kSteps));
    }
    nearest = std::min(nearest, distance(fast, curve, kSteps));
    plain.push_back(curve);
  }
  EXPECT_LE(distance(fast, plain[0], kEarlySteps), 1e-5);
  // Rounding may grow with the steps: what it may come to is measured, from the last places of a
  // float32 loss on.
  EXPECT_LE(nearest, std::max(between_orders, 4 * 1.2e-7));
  return fast;
}

/// Small products wait for each other longer than they take, so one thread computes them.
class LossCurveTest : public ::testing::Test {
 protected:
  void SetUp() override { at::set_num_threads(1); }
  void TearDown() override { at::set_num_threads(threads_); }

 private:
  int threads_ = at::get_num_threads();
};

template <class Config>
Config config_of_type(const std::string& type) {
  Config config;
  config.name = "a";
  config.type = type;
  config.hook_point = "h";
  config.n_latents = kLatents;
  return config;
}

TEST_F(LossCurveTest, TopKTrainsAsDenseAutogradDoesWithAuxKByDenseProductsAndByPairs) {
  auto config = config_of_type<sae::TopKConfig>("topk");
  config.k = 5;
  for (const std::int64_t aux_k : {8, 2}) {
    config.aux_k = aux_k;
    const Curve fast = compare(config, [&] { return plain_topk(config, false); });
    EXPECT_GT(fast.aux_steps, 50);
    // Pairs are for more than six times as many dead latents as AuxK takes.
    const bool has_pairs = aux_k == 2;
    EXPECT_EQ(fast.dead_latents[kEarlySteps] > 6 * aux_k, has_pairs);
  }
}

TEST_F(LossCurveTest, BatchTopKTrainsAsDenseAutogradDoes) {
  auto config = config_of_type<sae::BatchTopKConfig>("batch_topk");
  config.k = 5;
  config.aux_k = 8;
  EXPECT_GT(compare(config, [&] { return plain_topk(config, true); }).aux_steps, 50);
}

TEST_F(LossCurveTest, ReluL1TrainsAsDenseAutogradDoes) {
  auto config = config_of_type<sae::ReluL1Config>("relu_l1");
  config.sparsity_warmup_fraction = 0;
  compare(config, [&] { return plain_relu_l1(config); });
}

TEST_F(LossCurveTest, JumpReluTrainsAsDenseAutogradDoes) {
  auto config = config_of_type<sae::JumpReluConfig>("jumprelu");
  config.recipe = "gdm";
  config.use_form_defaults();
  config.sparsity_warmup_fraction = 0;
  config.bandwidth = 0.3;
  config.initial_threshold = 0.3;
  config.sparsity_coefficient = 0.05;
  compare(config, [&] { return plain_jumprelu(config); });
}

}  // namespace
}  // namespace thresher::trainer
