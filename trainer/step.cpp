#include "trainer/step.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "kernels/adam.h"
#include "kernels/decoder_norm.h"
#include "kernels/tree_sum.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kNormBlock = std::int64_t{1} << 18;  // values; 1 MiB
constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();

kernels::Exec exec_of(const at::Tensor& tensor) {
  THRESHER_CHECK(tensor.is_cpu(), "the training step's tensors live on the CPU");
  return {Device::kCpu, nullptr};
}

kernels::AdamStep adam_of(const sae::Parameter& parameter, kernels::AdamStep adam) {
  adam.learning_rate *= parameter.learning_rate_factor;
  return adam;
}

/// Position of the first non-finite value, or kNone.
std::int64_t first_bad_value(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous();
  const float* values = flat.data_ptr<float>();
  for (std::int64_t i = 0; i < flat.numel(); ++i) {
    if (!std::isfinite(values[i])) return i;
  }
  return kNone;
}

/// What a person needs to find the cause: the inputs come first because they are the usual one.
std::string describe_bad_value(sae::TrainingSae& sae, const std::vector<at::Tensor>& lanes,
                               comm::Communicator& comm) {
  const auto n_lanes = static_cast<std::int64_t>(lanes.size());
  std::int64_t bad_row = kNone;  // of the global batch
  for (std::int64_t i = n_lanes - 1; i >= 0; --i) {
    const std::int64_t at = first_bad_value(lanes[i]);
    if (at == kNone) continue;
    const std::int64_t rows = lanes[i].size(0);
    bad_row = (comm.rank() * n_lanes + i) * rows + at / lanes[i].size(1);
  }
  comm.all_reduce_min({&bad_row, 1}, "step.first_bad_row");
  if (bad_row != kNone) {
    const std::int64_t rows = lanes.front().size(0);
    return fmt::format("the input, lane {} row {}", bad_row / rows, bad_row % rows);
  }
  for (const sae::Parameter& parameter : sae.parameters()) {
    if (first_bad_value(parameter.weight) != kNone) {
      return fmt::format("the weight {}", parameter.name);
    }
  }
  for (const sae::Parameter& parameter : sae.parameters()) {
    if (first_bad_value(parameter.gradient) != kNone) {
      return fmt::format("the gradient of {}", parameter.name);
    }
  }
  return "the sum of squared gradients, which overflows";
}

}  // namespace

Step::Step(sae::TrainingSae& sae, const TrainConfig& config)
    : sae_(&sae),
      config_(config),
      parallel_(sae.parameters().size()),
      average_(sae, config.ema_decay) {
  for (const sae::Parameter& parameter : sae.parameters()) {
    moments_.push_back({at::zeros_like(parameter.weight), at::zeros_like(parameter.weight)});
  }
}

void Step::compute_gradients(const sae::StepInfo& info, const std::vector<at::Tensor>& lanes,
                             comm::Communicator& comm) {
  sae_->begin_step(info);
  sae_->forward(lanes, comm);
  sae_->backward();
  for (const sae::Parameter& parameter : sae_->parameters()) {
    const at::Tensor& gradient = parameter.gradient;
    THRESHER_CHECK(gradient.is_non_overlapping_and_dense() &&
                       gradient.sizes() == parameter.weight.sizes() &&
                       gradient.strides() == parameter.weight.strides(),
                   "weights and gradients fill their memory in one layout");
    comm.all_reduce_sum({gradient.data_ptr<float>(), static_cast<std::size_t>(gradient.numel())},
                        "grad." + parameter.name);
  }
  sae_->finish_gradients();
}

double Step::gradient_norm() {
  std::vector<double> squares;
  for (std::size_t i = 0; i < moments_.size(); ++i) {
    const sae::Parameter& parameter = sae_->parameters()[i];
    const at::Tensor& gradient = parameter.gradient;
    const std::int64_t rows = parameter.memory_rows();
    const std::int64_t cols = gradient.numel() / rows;
    if (!parameter.has_unit_rows) {
      squares.push_back(
          kernels::sum_of_squares(exec_of(gradient), rows, cols, gradient.data_ptr<float>()));
      continue;
    }
    parallel_[i].resize(static_cast<std::size_t>(rows));
    squares.push_back(kernels::parallel_components(
        exec_of(gradient), rows, cols, parameter.weight.data_ptr<float>(),
        gradient.data_ptr<float>(), parallel_[i].data()));
  }
  return std::sqrt(kernels::tree_sum(squares));
}

kernels::AdamStep Step::adam_step(const sae::StepInfo& info, double learning_rate,
                                  double norm) const {
  const double limit = config_.clip_gradient_norm;
  return {.learning_rate = learning_rate,
          .beta1 = config_.beta1,
          .beta2 = config_.beta2,
          .epsilon = config_.epsilon,
          .step = info.step + 1,
          .gradient_scale = limit > 0 && norm > limit ? limit / norm : 1.0};
}

void Step::update_rows(std::size_t i, const kernels::AdamStep& adam, std::int64_t first,
                       std::int64_t rows, bool renormalises) {
  const sae::Parameter& parameter = sae_->parameters()[i];
  const kernels::Exec exec = exec_of(parameter.weight);
  const std::int64_t cols = parameter.weight.numel() / parameter.memory_rows();
  const float* gradient = parameter.gradient.data_ptr<float>() + first * cols;
  float* weights = parameter.weight.data_ptr<float>() + first * cols;
  float* m = moments_[i].m.data_ptr<float>() + first * cols;
  float* v = moments_[i].v.data_ptr<float>() + first * cols;
  const kernels::AdamStep step = adam_of(parameter, adam);
  if (parameter.has_unit_rows) {
    kernels::adam_unit_rows(exec, step, rows, cols, gradient, parallel_[i].data() + first,
                            renormalises, weights, m, v);
  } else {
    kernels::adam(exec, step, rows * cols, gradient, weights, m, v);
  }
}

void Step::update(const kernels::AdamStep& adam) {
  for (std::size_t i = 0; i < moments_.size(); ++i) {
    update_rows(i, adam, 0, sae_->parameters()[i].memory_rows(), true);
  }
}

std::pair<double, double> Step::update_with_norms(const kernels::AdamStep& adam) {
  // In blocks that stay in the cache, so that the copy of the old weights costs next to nothing.
  std::vector<float> block;
  std::vector<double> before, changed;
  for (std::size_t i = 0; i < moments_.size(); ++i) {
    const sae::Parameter& parameter = sae_->parameters()[i];
    const kernels::Exec exec = exec_of(parameter.weight);
    const std::int64_t all_rows = parameter.memory_rows();
    const std::int64_t cols = parameter.weight.numel() / all_rows;
    const std::int64_t block_rows = std::max<std::int64_t>(1, kNormBlock / cols);
    for (std::int64_t first = 0; first < all_rows; first += block_rows) {
      const std::int64_t rows = std::min(block_rows, all_rows - first);
      float* weights = parameter.weight.data_ptr<float>() + first * cols;
      before.push_back(kernels::sum_of_squares(exec, rows, cols, weights));
      block.assign(weights, weights + rows * cols);
      update_rows(i, adam, first, rows, false);
      for (std::int64_t j = 0; j < rows * cols; ++j) block[j] = weights[j] - block[j];
      changed.push_back(kernels::sum_of_squares(exec, rows, cols, block.data()));
      if (parameter.has_unit_rows) kernels::normalise_rows(exec, rows, cols, weights);
    }
  }
  return {std::sqrt(kernels::tree_sum(before)), std::sqrt(kernels::tree_sum(changed))};
}

void Step::forget_replaced_latents() {
  for (std::size_t i = 0; i < moments_.size(); ++i) {
    const sae::Parameter& parameter = sae_->parameters()[i];
    clear_latents(parameter, sae_->replaced_latents(), moments_[i].m);
    clear_latents(parameter, sae_->replaced_latents(), moments_[i].v);
  }
}

Json Step::run(const sae::StepInfo& info, const std::vector<at::Tensor>& lanes,
               comm::Communicator& comm, bool wants_norms) {
  THRESHER_CHECK(static_cast<std::int64_t>(lanes.size()) == info.n_local_lanes,
                 "one input a local lane");
  compute_gradients(info, lanes, comm);
  // Reduced gradients are the same on every rank, so all ranks take the same branch.
  const double norm = gradient_norm();
  if (!std::isfinite(norm)) {
    const std::string place = describe_bad_value(*sae_, lanes, comm);
    throw DataError(
        fmt::format(
            "SAE {}, step {}: the gradient norm is not finite; the first bad value is in {}",
            sae_->config().name, info.step, place),
        "finite activations, weights and gradients; nothing was updated by this step",
        "if the input is at fault, verify the cache (thresher cache verify DIR); else lower "
        "train.learning_rate");
  }
  const double learning_rate = learning_rate_at(config_, info.tokens_before);
  const kernels::AdamStep adam = adam_step(info, learning_rate, norm);
  std::pair<double, double> norms;
  if (wants_norms) {
    norms = update_with_norms(adam);
  } else {
    update(adam);
  }
  Json figures = sae_->finish_step(comm);
  forget_replaced_latents();
  average_.update(info.step + 1);
  const Json* loss = figures.find("loss");
  THRESHER_CHECK(loss != nullptr && std::isfinite(loss->as_double()),
                 "finite gradients come from a finite loss");
  figures["learning_rate"] = learning_rate;
  figures["gradient_norm"] = norm;
  if (wants_norms) {
    figures["parameter_norm"] = norms.first;
    figures["update_norm"] = norms.second;
  }
  return figures;
}

}  // namespace thresher::trainer
