#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "features/context_run.h"
#include "features/subject.h"
#include "host_model/host_model.h"

namespace thresher::features {

/// Something in a model's computation that can be taken away or exchanged. Its value v at a token
/// is a part of the activation x at a hook point, the rest of which stays:
///
///     hook point   v = x                       x' = v'
///     latent j     v = the latent's activation x' = x + (v' - v) W_dec[j]   (the SAE's error
///     stays) SAE error    v = x - recon(x)            x' = x + (v' - v)            (v' = 0: the
///     splice)
class Component {
 public:
  enum class Kind { kHookPoint, kLatent, kSaeError };

  static Component hook_point(const host_model::HookPoint& point);
  static Component latent(const NamedSae& sae, std::int64_t latent);  // borrowed
  static Component sae_error(const NamedSae& sae);                    // borrowed

  Kind kind() const { return kind_; }
  const host_model::HookPoint& point() const { return point_; }
  std::int64_t latent() const { return latent_; }
  /// "blocks.3.hook_mlp_out", "topk latent 17", "topk error".
  std::string name() const;

  /// v of activations x [N, width] float32: [N, width], of a latent [N, 1].
  at::Tensor values(const at::Tensor& x) const;
  /// x' of the same shape, for `values` = v of x and `changed` = v'.
  at::Tensor replace(const at::Tensor& x, const at::Tensor& values,
                     const at::Tensor& changed) const;

 private:
  Kind kind_ = Kind::kHookPoint;
  host_model::HookPoint point_;
  const NamedSae* sae_ = nullptr;
  std::int64_t latent_ = -1;
};

/// Components by name, in the order of computation:
///
///     embed                                       hook_embed
///     resid_pre, resid_mid, resid_post, attn_out, mlp_out    that place in every block
///     a hook point (blocks.3.hook_mlp_out)        itself
///     latent:17                                   one latent of the SAE
///     latents                                     all that fire at kept positions of `run`
///     sae_error                                   what the SAE leaves out
///
/// `sae_name` chooses among several SAEs. ConfigError for a name that is none of these, a block or
/// latent that is not there, the same component twice, and where an SAE is needed and none was
/// named.
std::vector<Component> parse_components(const std::vector<std::string>& names,
                                        std::string_view sae_name, const Subject& subject,
                                        const ContextRun& run);

}  // namespace thresher::features
