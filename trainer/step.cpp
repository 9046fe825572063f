#include "trainer/step.h"

#include <ATen/ATen.h>

#include <cmath>

#include "core/error.h"
#include "sae/exec.h"
#include "trainer/bad_step.h"

namespace thresher::trainer {
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
    throw describe_bad_step(*sae_, info.step, lanes, comm);
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
