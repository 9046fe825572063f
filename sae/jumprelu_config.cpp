#include "sae/jumprelu_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "sae/schedule.h"

namespace thresher::sae {
namespace {

void declare_thresholds(JumpReluConfig& config, FieldVisitor& fields) {
  fields.field("bandwidth", config.bandwidth,
               {.help = "Width of the window around a threshold in which pre-activations give it "
                        "gradients; anthropic 2 unless given.",
                .min = 0,
                .min_is_exclusive = true});
  fields.field("initial_threshold", config.initial_threshold,
               {.help = "Threshold of every latent at the start; anthropic 0.1 unless given.",
                .min = 0,
                .min_is_exclusive = true});
  fields.field("initial_log_threshold", config.initial_log_threshold,
               {.help = "Its logarithm, instead of it: 0.1 is a threshold of 1.105.",
                .min = -80,
                .max = 80});
  fields.field("threshold_parameter", config.threshold_parameter,
               {.help = "What is trained: the threshold itself, kept at 0 or above, or its "
                        "logarithm; anthropic log unless given.",
                .choices = {"direct", "log"}});
  fields.field("threshold_learning_rate_factor", config.threshold_learning_rate_factor,
               {.help = "The thresholds' learning rate as a multiple of the SAE's.", .min = 0});
}

}  // namespace

double JumpReluConfig::first_threshold() const {
  return initial_log_threshold ? std::exp(*initial_log_threshold) : initial_threshold;
}

std::int64_t JumpReluConfig::initial_l0_of(std::int64_t latents) const {
  constexpr std::int64_t kRecipe = 10'000;
  return initial_l0.value_or(std::clamp<std::int64_t>(latents / 4, 1, kRecipe));
}

double JumpReluConfig::input_mean_square(std::int64_t d_in) const {
  return is_anthropic() ? SaeConfig::input_mean_square(d_in) : 1;
}

void JumpReluConfig::declare_form(FieldVisitor& fields) {
  fields.field("recipe", recipe,
               {.help = "gdm: L0 penalty, thresholds learn through a straight-through estimate "
                        "(Rajamanoharan et al. 2024); target_l0: the same with a quadratic "
                        "penalty around target_l0; anthropic: tanh penalty, straight-through "
                        "gradients to all parameters, loss on silent latents (January 2025).",
                .choices = {"gdm", "target_l0", "anthropic"}});
}

void JumpReluConfig::use_form_defaults() {
  if (recipe == "target_l0") sparsity_coefficient = 1;
  if (!is_anthropic()) return;
  sparsity_coefficient = 20;
  sparsity_warmup_fraction = 1;
  bandwidth = 2;
  initial_threshold = 0.1;
  threshold_parameter = "log";
}

void JumpReluConfig::declare_own(FieldVisitor& fields) {
  declare_form(fields);
  fields.field("sparsity_coefficient", sparsity_coefficient,
               {.help = "Weight of the sparsity penalty against the squared error summed over "
                        "dimensions; gdm 0.001, target_l0 1, anthropic 20 unless given.",
                .min = 0});
  fields.field("target_l0", target_l0,
               {.help = "recipe: target_l0: active latents a token that the penalty aims at.",
                .min = 0,
                .min_is_exclusive = true});
  fields.field("sparsity_warmup_fraction", sparsity_warmup_fraction,
               {.help = "Part of total_tokens over which sparsity_coefficient rises linearly from "
                        "0; anthropic 1 unless given.",
                .min = 0,
                .max = 1});
  fields.field("sparsity_warmup_tokens", sparsity_warmup_tokens,
               {.help = "The same in tokens; auto: sparsity_warmup_fraction of the run.",
                .unit = "tokens",
                .min = 0});
  declare_thresholds(*this, fields);
  fields.field("tanh_scale", tanh_scale,
               {.help = "recipe: anthropic: c of the penalty tanh(c f |d|).",
                .min = 0,
                .min_is_exclusive = true});
  fields.field("pre_act_coefficient", pre_act_coefficient,
               {.help = "recipe: anthropic: weight of the loss on pre-activations below their "
                        "threshold; 0 turns it off.",
                .min = 0});
  fields.field("initial_l0", initial_l0,
               {.help = "recipe: anthropic: b_enc starts so that about so many latents a token "
                        "are active; auto: the smaller of 10,000 and n_latents / 4.",
                .min = 1,
                .max = 1 << 30});
}

void JumpReluConfig::check(const ConfigReader& place) const {
  JumpReluConfig defaults;
  defaults.recipe = recipe;
  defaults.use_form_defaults();
  if (initial_log_threshold && initial_threshold != defaults.initial_threshold) {
    place.fail("initial_log_threshold", "stands beside initial_threshold", "one of the two");
  }
  const auto refuse = [&](const char* key, const char* needed) {
    place.fail(key, fmt::format("has no use with recipe: {}", recipe),
               fmt::format("recipe: {}", needed));
  };
  if (recipe != "target_l0" && target_l0 != defaults.target_l0) refuse("target_l0", "target_l0");
  if (is_anthropic()) return;
  if (tanh_scale != defaults.tanh_scale) refuse("tanh_scale", "anthropic");
  if (pre_act_coefficient != defaults.pre_act_coefficient) {
    refuse("pre_act_coefficient", "anthropic");
  }
  if (initial_l0) refuse("initial_l0", "anthropic");
}

void JumpReluConfig::check_lengths(std::int64_t total_tokens) const {
  if (sparsity_warmup_tokens.value_or(0) <= total_tokens) return;
  throw ConfigError(
      fmt::format("sae {}.sparsity_warmup_tokens = {} does not fit into train.total_tokens = {}",
                  name, *sparsity_warmup_tokens, total_tokens),
      "a warm-up inside the run");
}

double JumpReluConfig::sparsity_at(std::int64_t tokens_before, std::int64_t total_tokens) const {
  const double length =
      warmup_length(sparsity_warmup_tokens, sparsity_warmup_fraction, total_tokens);
  const auto tokens = static_cast<double>(tokens_before);
  return tokens < length ? sparsity_coefficient * tokens / length : sparsity_coefficient;
}

}  // namespace thresher::sae
