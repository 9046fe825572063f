#include "trainer/weight_average.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"

namespace thresher::trainer {
namespace {

/// The tensor's memory as a row; parameters fill theirs without gaps.
at::Tensor flat(const at::Tensor& tensor) { return tensor.as_strided({tensor.numel()}, {1}); }

at::Tensor index_of(const std::vector<std::int64_t>& latents) {
  return at::tensor(latents, at::kLong);
}

}  // namespace

WeightAverage::WeightAverage(sae::TrainingSae& sae, double decay) : sae_(&sae), decay_(decay) {
  THRESHER_CHECK(decay >= 0 && decay < 1, "0 <= decay < 1");
  if (!is_on()) return;
  difference_ = at::empty({0}, sae.parameters().front().weight.options());
  for (const sae::Parameter& parameter : sae.parameters()) {
    averages_.push_back(at::zeros_like(parameter.weight));
  }
}

void WeightAverage::update(std::int64_t step) {
  if (!is_on()) return;
  const auto t = static_cast<double>(step);
  const double decay = std::min(decay_, (t - 1) / t);
  const std::vector<std::int64_t>& replaced = sae_->replaced_latents();
  for (std::size_t i = 0; i < averages_.size(); ++i) {
    const sae::Parameter& parameter = sae_->parameters()[i];
    at::Tensor average = flat(averages_[i]);
    difference_.resize_({average.numel()});
    at::sub_out(difference_, flat(parameter.weight), average);
    difference_.mul_(1 - decay);
    average.add_(difference_);
    if (replaced.empty() || parameter.latent_dim < 0) continue;
    const at::Tensor index = index_of(replaced).to(parameter.weight.device());
    averages_[i].index_copy_(parameter.latent_dim, index,
                             parameter.weight.index_select(parameter.latent_dim, index));
  }
}

sae::InferenceSae WeightAverage::to_inference(const sae::InputTransform& transform) const {
  if (!is_on()) return sae_->to_inference(transform);
  std::vector<at::Tensor> kept;
  for (std::size_t i = 0; i < averages_.size(); ++i) {
    at::Tensor& weight = sae_->parameters()[i].weight;
    kept.push_back(weight.clone());
    weight.copy_(averages_[i]);
  }
  sae_->constrain_weights();
  sae::InferenceSae out = sae_->to_inference(transform);
  for (std::size_t i = 0; i < kept.size(); ++i) sae_->parameters()[i].weight.copy_(kept[i]);
  return out;
}

std::string average_name(const sae::Parameter& parameter) { return parameter.name + ".ema"; }

void clear_latents(const sae::Parameter& parameter, const std::vector<std::int64_t>& latents,
                   at::Tensor& tensor) {
  if (latents.empty() || parameter.latent_dim < 0) return;
  tensor.index_fill_(parameter.latent_dim, index_of(latents).to(tensor.device()), 0);
}

}  // namespace thresher::trainer
