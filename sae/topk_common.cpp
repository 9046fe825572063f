#include "sae/topk_common.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace thresher::sae {

std::int64_t checked_aux_k(const TopKConfig& config, std::int64_t d_in) {
  const std::int64_t n_latents = config.latents(d_in);
  if (config.k > n_latents) {
    throw ConfigError(fmt::format("sae {}: k {} is above the dictionary size {}", config.name,
                                  config.k, n_latents),
                      fmt::format("1 <= k <= {}", n_latents));
  }
  const std::int64_t aux_k =
      config.aux_k.value_or(std::clamp<std::int64_t>(d_in / 2, 1, n_latents));
  if (aux_k > n_latents) {
    throw ConfigError(fmt::format("sae {}: aux_k {} is above the dictionary size {}", config.name,
                                  aux_k, n_latents),
                      fmt::format("1 <= aux_k <= {}", n_latents));
  }
  if (config.k_at(0) > n_latents) {
    throw ConfigError(fmt::format("sae {}: k_start {} is above the dictionary size {}", config.name,
                                  config.k_at(0), n_latents),
                      fmt::format("{} <= k_start <= {}", config.k, n_latents));
  }
  return aux_k;
}

std::vector<Parameter> topk_parameters(std::int64_t n_latents, std::int64_t d_in, Device device) {
  const auto options =
      at::TensorOptions(at::kFloat).device(device == Device::kCuda ? at::kCUDA : at::kCPU);
  const auto zeros = [&](at::IntArrayRef shape) { return at::zeros(shape, options); };
  return {
      {"W_enc", zeros({n_latents, d_in}).t(), zeros({n_latents, d_in}).t(), 1},
      {"b_enc", zeros({n_latents}), zeros({n_latents}), 0},
      {"W_dec", zeros({n_latents, d_in}), zeros({n_latents, d_in}), 0, true},
      {"b_dec", zeros({d_in}), zeros({d_in})},
  };
}

double aux_weight(const TopKConfig& config, std::int64_t n_dead, std::int64_t aux_k) {
  const double scale = std::min(static_cast<double>(n_dead) / static_cast<double>(aux_k), 1.0);
  return config.aux_coefficient * scale;
}

InferenceSae export_topk(const TopKConfig& config, const std::vector<Parameter>& parameters,
                         const InputTransform& transform) {
  // The decoder rows are unit already, and a common factor 1 / scale on all of them leaves the
  // selection alone: it moves into the latent activations (b_enc / scale) and out of the rows.
  const auto weight = [&](std::size_t i) { return parameters[i].weight.to(at::kCPU); };
  InferenceSae out;
  out.architecture = "topk";
  out.apply_b_dec_to_input = true;
  out.k = config.k;
  out.W_enc = weight(0).clone(at::MemoryFormat::Contiguous);
  out.W_dec = weight(2).clone();
  const at::Tensor centre =
      at::from_blob(const_cast<double*>(transform.centre.data()),
                    {static_cast<std::int64_t>(transform.centre.size())}, at::kDouble);
  out.b_enc = (weight(1).to(at::kDouble) / transform.scale).to(at::kFloat);
  out.b_dec = (weight(3).to(at::kDouble) / transform.scale + centre).to(at::kFloat);
  out.metadata["hook_name"] = config.hook_point;
  return out;
}

}  // namespace thresher::sae
