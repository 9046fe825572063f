#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"

namespace thresher::sae {

/// One entry of `sae:`. Variants derive from it and declare their own fields after the common ones.
struct SaeConfig {
  virtual ~SaeConfig() = default;
  std::string name;
  std::string hook_point;
  std::string type;  // a name in the registry: topk, relu_l1
  std::int64_t expansion_factor =
      4;  // n_latents = expansion_factor * d_in, unless n_latents is given
  std::optional<std::int64_t> n_latents;
  bool centre_inputs = true;  // subtract the cache's mean
  bool scale_inputs = true;   // scale so that E|x|^2 = d_in
  // geometric_median | mean | zero, of the centred, scaled inputs
  std::string decoder_bias_init = "geometric_median";
  std::optional<std::int64_t>
      dead_window_tokens;  // auto: the smaller of 10 M and a tenth of the run

  virtual void declare(FieldVisitor& fields);
  std::int64_t latents(std::int64_t d_in) const {
    return n_latents.value_or(expansion_factor * d_in);
  }
};

/// TopK with AuxK (Gao et al. 2024, arXiv:2406.04093; reference formula in docs/variants.md).
struct TopKConfig : SaeConfig {
  std::int64_t k = 32;
  std::optional<std::int64_t> aux_k;  // auto: d_in / 2
  double aux_coefficient = 1.0 / 32;
  void declare(FieldVisitor& fields) override;
};

/// ReLU + L1 in the April-2024 form: penalty weighted by decoder norms, no norm constraint, b_dec
/// not subtracted.
struct ReluL1Config : SaeConfig {
  double l1_coefficient = 5;
  double sparsity_warmup_fraction = 0.05;  // of total_tokens
  double decoder_init_norm = 0.1;
  ReluL1Config() { decoder_bias_init = "zero"; }  // all biases start at 0 in that recipe
  void declare(FieldVisitor& fields) override;
};

/// Reads one entry: looks at `type`, makes that variant's config, fills it. ConfigError listing the
/// types.
std::unique_ptr<SaeConfig> read_sae_config(const ConfigNode& node, const std::string& path);
/// The registry's variant names.
std::vector<std::string> sae_types();
/// A config of a type with its defaults (for the reference page).
std::unique_ptr<SaeConfig> default_sae_config(const std::string& type);

}  // namespace thresher::sae
