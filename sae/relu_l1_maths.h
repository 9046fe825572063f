#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace thresher::sae {

/// The formulas of ReLU + L1 for one lane, for float32 (training) and float64 (tests of the same
/// code) alike:
///
///     april    f = relu(x W_enc + b_enc),            recon = f W_dec + b_dec
///              L = 1/N sum over tokens of [ |x - recon|^2 + l1 sum_i f_i |W_dec[i]| ]
///     bricken  f = relu((x - b_dec) W_enc + b_enc),  recon = f W_dec + b_dec
///              L = 1/N sum over tokens of [ |x - recon|^2 + l1 sum_i f_i ]
struct ReluL1Weights {
  at::Tensor W_enc, b_enc, W_dec,
      b_dec;                 // [d, F] (a view of latent-major [F, d]), [F], [F, d], [d]
  at::Tensor decoder_norms;  // april: [F] |W_dec[i]|
  bool is_bricken = false;
};

struct ReluL1Lane {
  at::Tensor x;            // [n, d]; bricken: x - b_dec
  at::Tensor latent_acts;  // [n, F]
  at::Tensor error;        // [n, d]  x - recon
};

struct ReluL1Gradients {
  at::Tensor W_enc, W_dec;           // [F, d] both: W_enc is kept latent-major
  at::Tensor latent_acts;            // [n, F] scratch: the gradient of the pre-activations
  at::Tensor recon;                  // [n, d] scratch
  std::vector<double> b_enc, b_dec;  // [F], [d]
};

/// Fills latent_acts and error from x. Output tensors are reused when they are defined.
void relu_l1_forward(const ReluL1Weights& weights, ReluL1Lane& lane);

/// The gradients of this lane's part of L, but for the one that reaches W_dec through the norms:
/// that needs only the sum of every latent's activations, see relu_l1_norm_gradient. bricken: and
/// but for the one that reaches b_dec through the encoder's input, see relu_l1_input_gradient.
void relu_l1_backward(const ReluL1Weights& weights, const ReluL1Lane& lane, double n_tokens,
                      double l1, ReluL1Gradients& gradients);

/// Adds l1/N * sum over tokens of f_i * d|W_dec[i]| / dW_dec[i] to `gradient` [F, d]. `latent_sums`
/// [F] is over the global batch. A zero row has subgradient 0.
void relu_l1_norm_gradient(const ReluL1Weights& weights, const std::vector<double>& latent_sums,
                           double n_tokens, double l1, at::Tensor& gradient);

/// bricken: subtracts W_enc b_enc_gradient from `gradient` [d], because b_dec is subtracted from
/// the encoder's input. `b_enc_gradient` [F] is over the global batch. Sums are in float64, in the
/// order of the latents.
void relu_l1_input_gradient(const ReluL1Weights& weights, const at::Tensor& b_enc_gradient,
                            at::Tensor& gradient);

}  // namespace thresher::sae
