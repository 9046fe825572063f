#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "features/context_run.h"
#include "features/subject.h"

namespace thresher::features {

/// What feeds a latent at the positions of a context. The activation that the SAE reads is a sum of
/// what earlier components wrote, so the latent's pre-activation is, too:
///
///     z = x . w + bias = sum over components c of (x_c . w) + bias
///
/// with w the latent's encoder column and bias = b_enc - (b_dec . w if the SAE centres its inputs).
struct LatentPaths {
  std::vector<std::string> components;  // hook_embed, blocks.0.hook_attn_out, ... in order
  at::Tensor contributions;             // [components, tokens] float64: x_c . w
  double bias = 0;
  std::vector<double> pre_activations;  // z, one a token, as the SAE computes it
  std::vector<double> activations;      // after ReLU, TopK or threshold
};
LatentPaths latent_paths(const ContextRun& run, const NamedSae& sae, std::int64_t latent);

/// What a direction of the residual stream, added at the end, does to every token's logit but for
/// the final norm's scale: unembedding (ln_final folded in) times the direction, less the mean over
/// the vocabulary, which no probability depends on.
struct LogitEffect {
  std::vector<std::pair<std::int32_t, double>> promoted, suppressed;  // strongest first, by effect
};
/// `direction` is [d_model]; `top` tokens of each sign at most.
LogitEffect logit_effect(const at::Tensor& direction, const at::Tensor& unembedding,
                         std::int64_t top);

}  // namespace thresher::features
