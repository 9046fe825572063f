#include "sae/relu_l1_maths.h"

#include <ATen/ATen.h>

#include "core/error.h"
#include "sae/lane_sums.h"

namespace thresher::sae {
namespace {

/// Gives an output its shape; its memory is kept where it is large enough.
void size(at::Tensor& tensor, const at::Tensor& like, at::IntArrayRef shape) {
  if (!tensor.defined()) tensor = at::empty({0}, like.options());
  tensor.resize_(shape);
}

}  // namespace

void relu_l1_forward(const ReluL1Weights& weights, ReluL1Lane& lane) {
  const at::Tensor& x = lane.x;
  size(lane.latent_acts, x, {x.size(0), weights.W_enc.size(1)});
  at::mm_out(lane.latent_acts, x, weights.W_enc);
  lane.latent_acts.add_(weights.b_enc).relu_();
  size(lane.error, x, x.sizes());
  at::mm_out(lane.error, lane.latent_acts, weights.W_dec);
  if (!weights.is_bricken) lane.error.add_(weights.b_dec);  // else it left x already
  lane.error.neg_().add_(x);
}

void relu_l1_backward(const ReluL1Weights& weights, const ReluL1Lane& lane, double n_tokens,
                      double l1, ReluL1Gradients& gradients) {
  const at::Tensor& x = lane.x;
  size(gradients.recon, x, x.sizes());
  at::mul_out(gradients.recon, lane.error, at::scalar_tensor(-2 / n_tokens, x.options()));
  gradients.b_dec = column_sums(gradients.recon);
  size(gradients.W_dec, x, weights.W_dec.sizes());
  at::mm_out(gradients.W_dec, lane.latent_acts.t(), gradients.recon);

  size(gradients.latent_acts, x, lane.latent_acts.sizes());
  at::mm_out(gradients.latent_acts, gradients.recon, weights.W_dec.t());
  if (weights.is_bricken) {
    gradients.latent_acts.add_(l1 / n_tokens);
  } else {
    gradients.latent_acts.add_(weights.decoder_norms, l1 / n_tokens);
  }
  at::threshold_backward_out(gradients.latent_acts, gradients.latent_acts, lane.latent_acts, 0);
  gradients.b_enc = column_sums(gradients.latent_acts);
  size(gradients.W_enc, x, weights.W_dec.sizes());
  at::mm_out(gradients.W_enc, gradients.latent_acts.t(), x);
}

void relu_l1_norm_gradient(const ReluL1Weights& weights, const std::vector<double>& latent_sums,
                           double n_tokens, double l1, at::Tensor& gradient) {
  at::Tensor coefficients = at::empty({static_cast<std::int64_t>(latent_sums.size())}, at::kDouble);
  auto* coefficient = coefficients.mutable_data_ptr<double>();
  const at::Tensor norms = weights.decoder_norms.to(at::kDouble);
  const auto* norm = norms.const_data_ptr<double>();
  for (std::size_t i = 0; i < latent_sums.size(); ++i) {
    coefficient[i] = norm[i] > 0 ? l1 / n_tokens * latent_sums[i] / norm[i] : 0;
  }
  gradient.addcmul_(weights.W_dec, coefficients.to(gradient.scalar_type()).unsqueeze(1));
}

namespace {

template <class T>
void subtract_through_encoder(const at::Tensor& W_enc, const at::Tensor& b_enc_gradient,
                              at::Tensor& gradient) {
  THRESHER_CHECK(W_enc.t().is_contiguous(), "W_enc is kept latent-major");
  const T* W = W_enc.const_data_ptr<T>();
  const T* b = b_enc_gradient.const_data_ptr<T>();
  T* out = gradient.mutable_data_ptr<T>();
  const std::int64_t d = W_enc.size(0);
  std::vector<double> sums(static_cast<std::size_t>(d), 0.0);
  for (std::int64_t i = 0; i < W_enc.size(1); ++i, W += d) {
    for (std::int64_t j = 0; j < d; ++j) {
      sums[j] += static_cast<double>(W[j]) * static_cast<double>(b[i]);
    }
  }
  for (std::int64_t j = 0; j < d; ++j) {
    out[j] = static_cast<T>(static_cast<double>(out[j]) - sums[j]);
  }
}

}  // namespace

void relu_l1_input_gradient(const ReluL1Weights& weights, const at::Tensor& b_enc_gradient,
                            at::Tensor& gradient) {
  if (gradient.scalar_type() == at::kDouble) {
    subtract_through_encoder<double>(weights.W_enc, b_enc_gradient, gradient);
  } else {
    subtract_through_encoder<float>(weights.W_enc, b_enc_gradient, gradient);
  }
}

}  // namespace thresher::sae
