#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "core/device.h"
#include "sae/inference_sae.h"
#include "sae/sae_config.h"
#include "sae/training_sae.h"

namespace thresher::sae {

// What both trainers of TopK do in the same way.

/// Slots a token of AuxK where `aux_k` may be left out. ConfigError unless k, k_start and aux_k fit
/// the dictionary.
std::int64_t checked_aux_k(const TopKConfig& config, std::int64_t d_in);

/// W_enc (latent-major), b_enc, W_dec (unit rows) and b_dec, all zero.
std::vector<Parameter> topk_parameters(std::int64_t n_latents, std::int64_t d_in, Device device);

/// What the normalised AuxK error is multiplied by in the loss.
double aux_weight(const TopKConfig& config, std::int64_t n_dead, std::int64_t aux_k);

/// Below this part of the error's mean square its variance is rounding noise, and AuxK has nothing
/// to explain.
constexpr double kNoVariance = 1e-12;

/// The export as sae-lens' topk, in host memory. `parameters`: W_enc, b_enc, W_dec, b_dec.
InferenceSae export_topk(const TopKConfig& config, const std::vector<Parameter>& parameters,
                         const InputTransform& transform);

}  // namespace thresher::sae
