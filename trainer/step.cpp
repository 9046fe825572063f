#include "trainer/step.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "sae/exec.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();

/// Position of the first non-finite value, or kNone.
std::int64_t first_bad_value(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous().to(at::kCPU);
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
    : sae_(&sae), config_(config), average_(sae, config.ema_decay) {
  for (const sae::Parameter& parameter : sae.parameters()) {
    moments_.push_back({at::zeros_like(parameter.weight), at::zeros_like(parameter.weight)});
  }
  const auto make_update = sae.is_enqueued() ? make_enqueued_update : make_host_update;
  update_ = make_update(sae, moments_, config.clip_gradient_norm);
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
    comm.all_reduce_sum_on_device(sae::device_values(gradient), "grad." + parameter.name);
  }
  sae_->finish_gradients();
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
  const double learning_rate = learning_rate_at(config_, info.tokens_before);
  const kernels::AdamStep adam{.learning_rate = learning_rate,
                               .beta1 = config_.beta1,
                               .beta2 = config_.beta2,
                               .epsilon = config_.epsilon,
                               .step = info.step + 1,
                               .gradient_scale = 1.0};
  const UpdateFigures updated = update_->run(adam, wants_norms, comm);
  // Reduced gradients are the same on every rank, so all ranks take the same branch.
  if (!std::isfinite(updated.gradient_norm)) {
    const std::string place = describe_bad_value(*sae_, lanes, comm);
    throw DataError(
        fmt::format(
            "SAE {}, step {}: the gradient norm is not finite; the first bad value is in {}",
            sae_->config().name, info.step, place),
        "finite activations, weights and gradients; nothing was updated by this step",
        "if the input is at fault, verify the cache (thresher cache verify DIR); else lower "
        "train.learning_rate");
  }
  Json figures = sae_->finish_step(comm);
  forget_replaced_latents();
  average_.update(info.step + 1);
  const Json* loss = figures.find("loss");
  THRESHER_CHECK(loss != nullptr && std::isfinite(loss->as_double()),
                 "finite gradients come from a finite loss");
  figures["learning_rate"] = learning_rate;
  figures["gradient_norm"] = updated.gradient_norm;
  if (wants_norms) {
    figures["parameter_norm"] = updated.parameter_norm;
    figures["update_norm"] = updated.update_norm;
  }
  return figures;
}

}  // namespace thresher::trainer
