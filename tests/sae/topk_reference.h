#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <vector>

namespace thresher::sae::testing {

/// TopK + AuxK in float64 with everything that the gradient holds fixed written out: which latents
/// each token selects, and AuxK's target and its variance. Dense, masked, straight from
/// docs/variants.md.
struct TopKReference {
  std::array<at::Tensor, 4> parameters;  // W_enc, b_enc, W_dec, b_dec
  at::Tensor x;                          // [N, d]
  at::Tensor main_mask, aux_mask;        // [N, F] 0 or 1
  at::Tensor target;                     // [N, d] detached residual
  double target_variance = 0;            // sum |e - mean e|^2
  double mean_squared_input = 1;         // V
  double aux_weight = 0;                 // aux_coefficient * min(n_dead / aux_k, 1)

  bool over_batch = false;  // BatchTopK: the N k largest of all tokens' positive z

  /// Chooses the masks and the target from parameters, k and the dead latents.
  void select(std::int64_t k, std::int64_t aux_k, const std::vector<std::int64_t>& dead);
  /// A differentiable scalar.
  at::Tensor loss(const std::array<at::Tensor, 4>& at_parameters) const;
  double loss_value() const { return loss(parameters).item<double>(); }
  /// The formulas that TopKSae implements, before the decoder-parallel part is removed.
  std::array<at::Tensor, 4> gradients() const;

 private:
  at::Tensor top_mask(const at::Tensor& pre_acts, std::int64_t k) const;
};

/// Central differences of `loss` with respect to every element of every parameter.
template <std::size_t n, class Loss>
std::array<at::Tensor, n> central_differences(const std::array<at::Tensor, n>& parameters,
                                              const Loss& loss, double h = 1e-5) {
  std::array<at::Tensor, n> out, moved;
  for (std::size_t p = 0; p < n; ++p) moved[p] = parameters[p].clone();
  for (std::size_t p = 0; p < n; ++p) {
    out[p] = at::empty_like(moved[p]);
    auto* value = moved[p].template mutable_data_ptr<double>();
    auto* slope = out[p].template mutable_data_ptr<double>();
    for (std::int64_t i = 0; i < moved[p].numel(); ++i) {
      const double before = value[i];
      value[i] = before + h;
      const double above = loss(moved).template item<double>();
      value[i] = before - h;
      const double below = loss(moved).template item<double>();
      value[i] = before;
      slope[i] = (above - below) / (2 * h);
    }
  }
  return out;
}

/// Autograd's gradients of `loss`.
template <std::size_t n, class Loss>
std::array<at::Tensor, n> autograd_gradients(const std::array<at::Tensor, n>& parameters,
                                             const Loss& loss) {
  std::array<at::Tensor, n> leaves, out;
  for (std::size_t p = 0; p < n; ++p) {
    leaves[p] = parameters[p].detach().clone();
    leaves[p].requires_grad_(true);
  }
  loss(leaves).backward();
  for (std::size_t p = 0; p < n; ++p) out[p] = leaves[p].grad();
  return out;
}

}  // namespace thresher::sae::testing
