#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"

namespace thresher::sae {

/// Fields of section `train` that an SAE of a list may have for itself; absent (auto): the
/// section's value. What they mean is said there (trainer/train_config.h).
struct TrainOverrides {
  std::optional<double> learning_rate;
  std::optional<std::int64_t> warmup_tokens, decay_tokens;
  std::string decay_shape = "auto";
  std::optional<double> decay_floor;
  std::optional<double> beta1, beta2, epsilon;
  std::optional<double> clip_gradient_norm, ema_decay;

  void declare(FieldVisitor& fields);
};

/// One entry of `sae:`. Variants derive from it and declare their own fields between the common
/// ones and the overrides.
struct SaeConfig {
  virtual ~SaeConfig() = default;
  std::string name;
  std::string hook_point;
  std::string type;  // a name in the registry: topk, batch_topk, relu_l1, jumprelu
  std::int64_t expansion_factor =
      4;  // n_latents = expansion_factor * d_in, unless n_latents is given
  std::optional<std::int64_t> n_latents;
  bool centre_inputs = true;  // subtract the cache's mean
  bool scale_inputs = true;   // scale so that E|x|^2 = input_mean_square(d_in)
  // geometric_median | mean | zero, of the centred, scaled inputs
  std::string decoder_bias_init = "geometric_median";
  std::optional<std::int64_t>
      dead_window_tokens;  // auto: the smaller of 10 M and a tenth of the run
  // Of the initial weights and of resampling; auto: run.seed, which always decides the batches.
  std::optional<std::int64_t> seed;
  TrainOverrides train;

  void declare(FieldVisitor& fields);
  /// A field that decides defaults of others is declared here, read first, and followed by
  /// use_form_defaults.
  virtual void declare_form(FieldVisitor&) {}
  virtual void use_form_defaults() {}
  /// What no single field can check. Throws through `place.fail`.
  virtual void check(const ConfigReader&) const {}
  /// That the variant's own schedules fit a run of `total_tokens`. ConfigError naming the SAE.
  virtual void check_lengths(std::int64_t /*total_tokens*/) const {}
  /// What scale_inputs makes of E|x|^2.
  virtual double input_mean_square(std::int64_t d_in) const { return static_cast<double>(d_in); }
  std::int64_t latents(std::int64_t d_in) const {
    return n_latents.value_or(expansion_factor * d_in);
  }

 protected:
  virtual void declare_own(FieldVisitor&) {}
};

/// TopK with AuxK (Gao et al. 2024, arXiv:2406.04093; reference formula in docs/variants.md).
struct TopKConfig : SaeConfig {
  std::int64_t k = 32;
  std::optional<std::int64_t> k_start;  // auto: k
  std::int64_t k_anneal_tokens = 0;
  std::optional<std::int64_t> aux_k;  // auto: d_in / 2
  double aux_coefficient = 1.0 / 32;

  void check(const ConfigReader& place) const override;
  void check_lengths(std::int64_t total_tokens) const override;
  /// Latents kept by a step that starts after `tokens_before` tokens: from k_start to k in equal
  /// steps of one over k_anneal_tokens.
  std::int64_t k_at(std::int64_t tokens_before) const;

 protected:
  void declare_own(FieldVisitor& fields) override;
};

/// BatchTopK (Bussmann et al. 2024, arXiv:2412.06410): k * batch_tokens latents are kept over the
/// global batch, as many of a token as it needs. For use a threshold is learnt with it.
struct BatchTopKConfig : TopKConfig {
  std::optional<std::int64_t> threshold_window_tokens;  // auto: 2 M or a tenth of the run

 protected:
  void declare_own(FieldVisitor& fields) override;
};

/// ReLU + L1. Form `april` (Anthropic, April 2024): penalty weighted by decoder norms, no norm
/// constraint, b_dec not subtracted. Form `bricken` (Bricken et al. 2023): plain L1, decoder rows
/// of unit norm, b_dec subtracted from the input, dead latents resampled.
struct ReluL1Config : SaeConfig {
  std::string form = "april";
  double l1_coefficient = 5;
  double sparsity_warmup_fraction = 0.05;              // of total_tokens
  std::optional<std::int64_t> sparsity_warmup_tokens;  // auto: that fraction
  std::int64_t sparsity_decay_tokens = 0;
  std::string sparsity_decay_shape = "linear";
  double sparsity_floor = 0;
  double decoder_init_norm = 0.1;
  // bricken; 0: never; auto: a tenth of the run, and never with april.
  std::optional<std::int64_t> resample_every_tokens;
  std::optional<std::int64_t> resample_until_tokens;  // auto: half of the run
  double resample_encoder_norm = 0.2;

  ReluL1Config() { decoder_bias_init = "zero"; }  // all biases start at 0 in that recipe
  bool is_bricken() const { return form == "bricken"; }
  void declare_form(FieldVisitor& fields) override;
  void use_form_defaults() override;
  void check(const ConfigReader& place) const override;
  void check_lengths(std::int64_t total_tokens) const override;
  /// The penalty's weight for a step that starts after `tokens_before` tokens.
  double l1_at(std::int64_t tokens_before, std::int64_t total_tokens) const;
  /// Whether dead latents are resampled at the end of a step over [tokens_before, tokens_after).
  bool is_resampling_due(std::int64_t tokens_before, std::int64_t tokens_after,
                         std::int64_t total_tokens) const;

 protected:
  void declare_own(FieldVisitor& fields) override;
};

/// Reads one entry: looks at `type`, makes that variant's config, fills it. ConfigError listing the
/// types.
std::unique_ptr<SaeConfig> read_sae_config(const ConfigNode& node, const std::string& path);
/// The registry's variant names.
std::vector<std::string> sae_types();
/// A config of a type with its defaults (for the reference page).
std::unique_ptr<SaeConfig> default_sae_config(const std::string& type);

}  // namespace thresher::sae
