#include "tests/sae/topk_reference.h"

#include <algorithm>
#include <limits>

namespace thresher::sae::testing {
namespace {

at::Tensor pre_acts_of(const at::Tensor& x, const std::array<at::Tensor, 4>& p) {
  return at::mm(x - p[3], p[0]) + p[1];
}

}  // namespace

at::Tensor TopKReference::top_mask(const at::Tensor& pre_acts, std::int64_t k) const {
  const at::Tensor indices = std::get<1>(pre_acts.topk(k, 1));
  return at::zeros_like(pre_acts).scatter_(1, indices, 1.0);
}

void TopKReference::select(std::int64_t k, std::int64_t aux_k,
                           const std::vector<std::int64_t>& dead) {
  const auto& [W_enc, b_enc, W_dec, b_dec] = parameters;
  const at::Tensor pre_acts = pre_acts_of(x, parameters);
  main_mask = over_batch ? top_mask(pre_acts.reshape({1, -1}), k * x.size(0)).view_as(pre_acts)
                         : top_mask(pre_acts, k);
  target = x - (at::mm(pre_acts.relu() * main_mask, W_dec) + b_dec);
  target_variance = (target - target.mean(0)).square().sum().item<double>();
  aux_mask = at::zeros_like(pre_acts);
  const auto n_dead = static_cast<std::int64_t>(dead.size());
  if (n_dead == 0) return;
  at::Tensor silent = at::full_like(pre_acts, -std::numeric_limits<double>::infinity());
  for (const std::int64_t latent : dead) silent.select(1, latent).copy_(pre_acts.select(1, latent));
  aux_mask = top_mask(silent, std::min(n_dead, aux_k));
}

at::Tensor TopKReference::loss(const std::array<at::Tensor, 4>& p) const {
  const auto n_tokens = static_cast<double>(x.size(0));
  const at::Tensor acts = pre_acts_of(x, p).relu();
  const at::Tensor recon = at::mm(acts * main_mask, p[2]) + p[3];
  at::Tensor loss = (x - recon).square().sum() / (n_tokens * mean_squared_input);
  if (aux_weight > 0) {
    const at::Tensor aux_recon = at::mm(acts * aux_mask, p[2]);
    loss = loss + aux_weight * (target - aux_recon).square().sum() / target_variance;
  }
  return loss;
}

std::array<at::Tensor, 4> TopKReference::gradients() const {
  const auto& [W_enc, b_enc, W_dec, b_dec] = parameters;
  const auto n_tokens = static_cast<double>(x.size(0));
  const at::Tensor pre_acts = pre_acts_of(x, parameters);
  const at::Tensor main = pre_acts.relu() * main_mask;
  const at::Tensor aux = pre_acts.relu() * aux_mask;
  const at::Tensor error = x - (at::mm(main, W_dec) + b_dec);
  const at::Tensor recon_gradient = error * (-2 / (n_tokens * mean_squared_input));
  at::Tensor aux_gradient = at::zeros_like(error);
  if (aux_weight > 0) {
    aux_gradient = (target - at::mm(aux, W_dec)) * (-2 * aux_weight / target_variance);
  }
  const at::Tensor pre_gradient =
      at::mm(recon_gradient, W_dec.t()) * main.gt(0) + at::mm(aux_gradient, W_dec.t()) * aux.gt(0);
  const at::Tensor b_enc_gradient = pre_gradient.sum(0);
  return {at::mm((x - b_dec).t(), pre_gradient), b_enc_gradient,
          at::mm(main.t(), recon_gradient) + at::mm(aux.t(), aux_gradient),
          recon_gradient.sum(0) - at::mv(W_enc, b_enc_gradient)};
}

}  // namespace thresher::sae::testing
