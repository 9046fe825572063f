#include "features/latent_paths.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;
using Site = HookPoint::Site;

/// The components whose outputs sum to the activation at a hook point.
std::vector<HookPoint> writers_of(const HookPoint& point) {
  if (point.site == Site::kAttnOut || point.site == Site::kMlpOut) return {point};
  if (point.site == Site::kFinalNormalized) {
    throw ConfigError("the SAE reads ln_final.hook_normalized, which is no sum of components",
                      "an SAE at a residual stream, hook_attn_out or hook_mlp_out");
  }
  std::vector<HookPoint> out = {{Site::kEmbed, -1}};
  for (std::int64_t block = 0; block <= point.block; ++block) {
    for (const Site site : {Site::kAttnOut, Site::kMlpOut}) {
      if (block < point.block || site < point.site) out.push_back({site, block});
    }
  }
  return out;
}

std::vector<double> to_vector(const at::Tensor& column) {
  const at::Tensor values = column.to(at::kDouble).contiguous();
  const auto* first = values.const_data_ptr<double>();
  return {first, first + values.numel()};
}

}  // namespace

LatentPaths latent_paths(const ContextRun& run, const NamedSae& one, std::int64_t latent) {
  const sae::InferenceSae& sae = one.sae;
  THRESHER_CHECK(latent >= 0 && latent < sae.n_latents(), "the latent is one of the SAE's");
  const HookPoint point = HookPoint::parse(one.hook_point);
  const at::Tensor w = sae.W_enc.select(1, latent).to(at::kDouble);
  LatentPaths out;
  std::vector<at::Tensor> rows;
  for (const HookPoint& writer : writers_of(point)) {
    out.components.push_back(writer.name());
    rows.push_back(at::mv(run.at(writer).to(at::kDouble), w));
  }
  out.contributions = at::stack(rows);
  out.bias = sae.b_enc[latent].item<double>();
  if (sae.apply_b_dec_to_input) out.bias -= at::dot(sae.b_dec.to(at::kDouble), w).item<double>();
  const at::Tensor& x = run.at(point);
  out.pre_activations = to_vector(sae.pre_acts(x).select(1, latent));
  out.activations = to_vector(sae.encode_dense(x).select(1, latent));
  return out;
}

LogitEffect logit_effect(const at::Tensor& direction, const at::Tensor& unembedding,
                         std::int64_t top) {
  at::Tensor effects = at::mv(unembedding.to(at::kDouble), direction.to(at::kDouble));
  effects = effects - effects.mean();
  const auto [sorted, order] = at::sort(effects, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const auto* value = sorted.const_data_ptr<double>();
  const auto* token = order.const_data_ptr<std::int64_t>();
  LogitEffect out;
  const std::int64_t n = effects.numel();
  for (std::int64_t i = 0; i < std::min(top, n); ++i) {
    if (value[i] > 0) {
      out.promoted.emplace_back(static_cast<std::int32_t>(token[i]), value[i]);
    }
    const std::int64_t last = n - 1 - i;
    if (value[last] < 0) {
      out.suppressed.emplace_back(static_cast<std::int32_t>(token[last]), value[last]);
    }
  }
  return out;
}

}  // namespace thresher::features
