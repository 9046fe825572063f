#include "features/live_steering.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <utility>

#include "core/error.h"
#include "features/intervention.h"
#include "features/prompts.h"
#include "host_model/generation.h"

namespace thresher::features {

LiveSteering::Answer LiveSteering::ask(const Question& question) {
  const std::lock_guard lock(mutex_);
  const sae::InferenceSae& sae = sae_->sae;
  Intervention intervention;
  intervention.point = host_model::HookPoint::parse(sae_->hook_point);
  // Row 0 for the plain text: both run in one batch, so they see the same rounding.
  intervention.direction = at::zeros({2, sae.d_in()}, at::kFloat);
  for (const Feature& feature : question.features) {
    if (feature.latent < 0 || feature.latent >= sae.n_latents()) {
      throw UsageError(fmt::format("there is no latent {}", feature.latent),
                       fmt::format("0 to {}", sae.n_latents() - 1));
    }
    intervention.direction[1].add_(sae.W_dec[feature.latent],
                                   question.multiplier * feature.strength);
  }
  Interventions interventions({std::move(intervention)}, subject_->rules, *subject_->tokenizer,
                              subject_->model->info());
  host_model::GenerationRequest request;
  const std::vector<std::int32_t> ids = prompt_tokens(*subject_, question.prompt);
  request.prompts = {{ids}, {ids}};
  request.max_new_tokens = question.max_new_tokens;
  request.temperature = question.temperature;
  request.seed = question.seed;
  request.stop_ids = stop_tokens(*subject_->tokenizer);
  request.hooks = interventions.hooks();
  const auto made = host_model::generate(*subject_->model, request);
  return {subject_->tokenizer->decode(made[0].token_ids),
          subject_->tokenizer->decode(made[1].token_ids)};
}

}  // namespace thresher::features
