#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sae/sae_config.h"

namespace thresher::sae {

/// JumpReLU in three recipes (docs/variants.md has formulas and sources): `gdm` penalises L0 with
/// straight-through gradients that reach the thresholds only, `target_l0` its distance from a
/// target, `anthropic` a tanh of the activations, with straight-through gradients that reach all
/// parameters and a loss that revives silent latents.
struct JumpReluConfig : SaeConfig {
  std::string recipe = "gdm";
  double sparsity_coefficient = 1e-3;
  double target_l0 = 20;                               // target_l0
  double sparsity_warmup_fraction = 0.05;              // of total_tokens
  std::optional<std::int64_t> sparsity_warmup_tokens;  // auto: that fraction
  double bandwidth = 1e-3;
  double initial_threshold = 1e-3;
  std::optional<double> initial_log_threshold;  // instead of initial_threshold
  std::string threshold_parameter = "direct";
  double threshold_learning_rate_factor = 1;
  double tanh_scale = 4;                   // anthropic
  double pre_act_coefficient = 3e-6;       // anthropic
  std::optional<std::int64_t> initial_l0;  // anthropic; auto: initial_l0_of

  JumpReluConfig() { decoder_bias_init = "zero"; }  // b_dec is not subtracted from the input
  bool is_anthropic() const { return recipe == "anthropic"; }
  bool has_log_threshold() const { return threshold_parameter == "log"; }
  /// The threshold that every latent starts with.
  double first_threshold() const;
  /// How many latents of `latents` a token of the sample activates at the start: the smaller of
  /// 10,000 and a quarter of them unless given.
  std::int64_t initial_l0_of(std::int64_t latents) const;
  void declare_form(FieldVisitor& fields) override;
  void use_form_defaults() override;
  void check(const ConfigReader& place) const override;
  void check_lengths(std::int64_t total_tokens) const override;
  /// gdm and target_l0: 1, which their bandwidth and thresholds belong to.
  double input_mean_square(std::int64_t d_in) const override;
  /// The penalty's weight for a step that starts after `tokens_before` tokens.
  double sparsity_at(std::int64_t tokens_before, std::int64_t total_tokens) const;

 protected:
  void declare_own(FieldVisitor& fields) override;
};

}  // namespace thresher::sae
