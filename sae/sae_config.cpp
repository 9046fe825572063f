#include "sae/sae_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"
#include "core/files.h"
#include "sae/schedule.h"

namespace thresher::sae {
namespace {

void declare_type(FieldVisitor& fields, std::string& type) {
  const std::vector<std::string> types = sae_types();
  fields.field("type", type,
               {.help = fmt::format("The SAE variant: {}.", fmt::join(types, ", ")),
                .choices = types,
                .is_required = true});
}

}  // namespace

void TrainOverrides::declare(FieldVisitor& fields) {
  fields.field("learning_rate", learning_rate,
               {.help = "auto: train.learning_rate, and so on for the keys below.",
                .min = 0,
                .max = 1,
                .min_is_exclusive = true});
  fields.field("warmup_tokens", warmup_tokens,
               {.help = "In place of train.warmup_tokens.", .unit = "tokens", .min = 0});
  fields.field("decay_tokens", decay_tokens,
               {.help = "In place of train.decay_tokens.", .unit = "tokens", .min = 0});
  std::vector<std::string> shapes = decay_shapes();
  shapes.insert(shapes.begin(), "auto");
  fields.field("decay_shape", decay_shape,
               {.help = "In place of train.decay_shape.", .choices = shapes});
  fields.field("decay_floor", decay_floor,
               {.help = "In place of train.decay_floor.", .min = 0, .max = 1});
  fields.field("beta1", beta1, {.help = "In place of train.beta1.", .min = 0, .max = 0.999999});
  fields.field("beta2", beta2, {.help = "In place of train.beta2.", .min = 0, .max = 0.99999999});
  fields.field(
      "epsilon", epsilon,
      {.help = "In place of train.epsilon.", .min = 0, .max = 1, .min_is_exclusive = true});
  fields.field("clip_gradient_norm", clip_gradient_norm,
               {.help = "In place of train.clip_gradient_norm.", .min = 0});
  fields.field("ema_decay", ema_decay,
               {.help = "In place of train.ema_decay.", .min = 0, .max = 0.99999999});
}

void SaeConfig::declare(FieldVisitor& fields) {
  fields.field("name", name,
               {.help = "Names the SAE in the run directory and in tables; letters, digits, '.', "
                        "'_' and '-'. Left out: its type."});
  fields.field(
      "hook_point", hook_point,
      {.help = "Whose activations it is trained on, e.g. blocks.14.hook_resid_post. May be "
               "left out where the cache has one hook point."});
  declare_type(fields, type);
  fields.field("expansion_factor", expansion_factor,
               {.help = "n_latents as a multiple of d_in, unless n_latents is given.",
                .min = 1,
                .max = 1 << 20});
  fields.field(
      "n_latents", n_latents,
      {.help = "Dictionary size; auto: expansion_factor x d_in.", .min = 1, .max = 1 << 30});
  fields.field("centre_inputs", centre_inputs,
               {.help = "Subtract the mean of the training activations; folded into the exported "
                        "weights."});
  fields.field("scale_inputs", scale_inputs,
               {.help = "Scale so that the mean squared norm of the inputs is d_in (jumprelu's "
                        "recipes gdm and target_l0: 1); folded into the exported weights."});
  fields.field("decoder_bias_init", decoder_bias_init,
               {.help = "Where b_dec starts, over a sample of the centred, scaled inputs.",
                .choices = {"geometric_median", "mean", "zero"}});
  fields.field("dead_window_tokens", dead_window_tokens,
               {.help = "A latent silent for so many tokens counts as dead; auto: the smaller of "
                        "10M and a tenth of the run.",
                .unit = "tokens",
                .min = 1});
  fields.field("seed", seed,
               {.help = "Decides the initial weights and resampling; auto: run.seed. The batches "
                        "are run.seed's in either case.",
                .min = 0});
  declare_own(fields);
  train.declare(fields);
}

void TopKConfig::declare_own(FieldVisitor& fields) {
  fields.field("k", k, {.help = "Latents kept per token.", .min = 1, .max = 1 << 30});
  fields.field("k_start", k_start,
               {.help = "Latents kept per token at the start, annealed to k; auto: k.",
                .min = 1,
                .max = 1 << 30});
  fields.field("k_anneal_tokens", k_anneal_tokens,
               {.help = "k_start falls to k over the first so many tokens, one latent at a time.",
                .unit = "tokens",
                .min = 0});
  fields.field("aux_k", aux_k,
               {.help = "Dead latents that reconstruct the residual in AuxK; auto: d_in / 2.",
                .min = 1,
                .max = 1 << 30});
  fields.field("aux_coefficient", aux_coefficient,
               {.help = "Weight of the AuxK loss; 0 turns it off.", .min = 0});
}

void BatchTopKConfig::declare_own(FieldVisitor& fields) {
  TopKConfig::declare_own(fields);
  fields.field(
      "threshold_window_tokens", threshold_window_tokens,
      {.help = "The exported threshold is the mean, weighted by exp(-age / this), of every "
               "batch's smallest kept activation; auto: the smaller of 2M and a tenth of "
               "the run.",
       .unit = "tokens",
       .min = 1});
}

void TopKConfig::check(const ConfigReader& place) const {
  if (k_start && *k_start < k) {
    place.fail("k_start", fmt::format("= {} is less than k = {}", *k_start, k), "k <= k_start");
  }
  if (k_start && *k_start > k && k_anneal_tokens == 0) {
    place.fail("k_start", fmt::format("= {} needs k_anneal_tokens", *k_start),
               "over how many tokens k falls from k_start to k");
  }
  if (k_anneal_tokens > 0 && !k_start) {
    place.fail("k_anneal_tokens", fmt::format("= {} needs k_start", k_anneal_tokens),
               "the number of latents to start with");
  }
}

void TopKConfig::check_lengths(std::int64_t total_tokens) const {
  if (k_anneal_tokens <= total_tokens) return;
  throw ConfigError(fmt::format("sae {}.k_anneal_tokens = {} does not fit into "
                                "train.total_tokens = {}",
                                name, k_anneal_tokens, total_tokens),
                    "k reached inside the run, because the SAE is exported with k");
}

std::int64_t TopKConfig::k_at(std::int64_t tokens_before) const {
  if (!k_start || tokens_before >= k_anneal_tokens) return k;
  const double part = static_cast<double>(tokens_before) / static_cast<double>(k_anneal_tokens);
  return *k_start - static_cast<std::int64_t>(static_cast<double>(*k_start - k) * part);
}

void ReluL1Config::declare_form(FieldVisitor& fields) {
  fields.field(
      "form", form,
      {.help = "april: penalty weighted by decoder norms (Anthropic, April 2024); bricken: "
               "unit decoder rows, plain L1, b_dec subtracted from the input, dead "
               "latents resampled (Bricken et al. 2023).",
       .choices = {"april", "bricken"}});
}

void ReluL1Config::use_form_defaults() {
  if (!is_bricken()) return;
  decoder_bias_init = "geometric_median";
  decoder_init_norm = 1;
}

void ReluL1Config::declare_own(FieldVisitor& fields) {
  declare_form(fields);
  fields.field("l1_coefficient", l1_coefficient,
               {.help = "Weight of the sparsity penalty against the squared error summed over "
                        "dimensions.",
                .min = 0});
  fields.field("sparsity_warmup_fraction", sparsity_warmup_fraction,
               {.help = "Part of total_tokens over which l1_coefficient rises linearly from 0.",
                .min = 0,
                .max = 1});
  fields.field("sparsity_warmup_tokens", sparsity_warmup_tokens,
               {.help = "The same in tokens; auto: sparsity_warmup_fraction of the run.",
                .unit = "tokens",
                .min = 0});
  fields.field("sparsity_decay_tokens", sparsity_decay_tokens,
               {.help = "The penalty falls to sparsity_floor over the last so many tokens; 0: it "
                        "stays.",
                .unit = "tokens",
                .min = 0});
  fields.field("sparsity_decay_shape", sparsity_decay_shape,
               {.help = "How it falls.", .choices = decay_shapes()});
  fields.field("sparsity_floor", sparsity_floor,
               {.help = "Where it falls to, as a part of l1_coefficient.", .min = 0, .max = 1});
  fields.field("decoder_init_norm", decoder_init_norm,
               {.help = "Norm of the decoder rows at the start; always 1 with form: bricken.",
                .min = 0,
                .min_is_exclusive = true});
  fields.field("resample_every_tokens", resample_every_tokens,
               {.help = "form: bricken: dead latents are resampled each time so many tokens have "
                        "passed; 0: never; auto: a tenth of the run.",
                .unit = "tokens",
                .min = 0});
  fields.field("resample_until_tokens", resample_until_tokens,
               {.help = "form: bricken: no resampling after so many tokens, so that the last ones "
                        "are learnt; auto: half of the run.",
                .unit = "tokens",
                .min = 0});
  fields.field("resample_encoder_norm", resample_encoder_norm,
               {.help = "form: bricken: norm of a resampled latent's encoder column, as a part of "
                        "the mean over living latents.",
                .min = 0,
                .min_is_exclusive = true});
}

void ReluL1Config::check(const ConfigReader& place) const {
  if (sparsity_floor != 0 && sparsity_decay_tokens == 0) {
    place.fail("sparsity_floor", fmt::format("= {} needs sparsity_decay_tokens", sparsity_floor),
               "over how many tokens the penalty falls to it");
  }
  if (is_bricken()) {
    if (decoder_init_norm != 1) {
      place.fail("decoder_init_norm", fmt::format("= {} with form: bricken", decoder_init_norm),
                 "1: that form keeps the decoder rows at unit norm", "leave it out");
    }
    return;
  }
  const auto refuse = [&](const char* key) {
    place.fail(key, "has no use with form: april", "form: bricken resamples dead latents");
  };
  if (resample_every_tokens.value_or(0) != 0) refuse("resample_every_tokens");
  if (resample_until_tokens.value_or(0) != 0) refuse("resample_until_tokens");
  if (resample_encoder_norm != ReluL1Config().resample_encoder_norm) {
    refuse("resample_encoder_norm");
  }
}

void ReluL1Config::check_lengths(std::int64_t total_tokens) const {
  const std::int64_t rise =
      sparsity_warmup_tokens ? *sparsity_warmup_tokens
                             : static_cast<std::int64_t>(warmup_length(
                                   sparsity_warmup_tokens, sparsity_warmup_fraction, total_tokens));
  // Written without a sum, which two large numbers could overflow.
  if (rise <= total_tokens && sparsity_decay_tokens <= total_tokens - rise) return;
  const std::string given =
      sparsity_warmup_tokens ? fmt::format("sparsity_warmup_tokens = {}", *sparsity_warmup_tokens)
                             : fmt::format("sparsity_warmup_fraction = {} ({} tokens)",
                                           sparsity_warmup_fraction, rise);
  throw ConfigError(fmt::format("sae {0}.{1} and sae {0}.sparsity_decay_tokens = {2} do not fit "
                                "into train.total_tokens = {3}",
                                name, given, sparsity_decay_tokens, total_tokens),
                    "warm-up and decay one after the other inside the run");
}

double ReluL1Config::l1_at(std::int64_t tokens_before, std::int64_t total_tokens) const {
  const double warmup_tokens =
      warmup_length(sparsity_warmup_tokens, sparsity_warmup_fraction, total_tokens);
  double l1 = l1_coefficient;
  if (static_cast<double>(tokens_before) < warmup_tokens) {
    l1 = l1_coefficient * static_cast<double>(tokens_before) / warmup_tokens;
  }
  const double factor = decay_factor(total_tokens - tokens_before, sparsity_decay_tokens,
                                     sparsity_decay_shape, sparsity_floor);
  return std::min(l1, l1_coefficient * factor);
}

bool ReluL1Config::is_resampling_due(std::int64_t tokens_before, std::int64_t tokens_after,
                                     std::int64_t total_tokens) const {
  if (!is_bricken()) return false;
  const std::int64_t every =
      resample_every_tokens.value_or(std::max<std::int64_t>(1, total_tokens / 10));
  if (every == 0 || tokens_after > resample_until_tokens.value_or(total_tokens / 2)) return false;
  return tokens_after / every > tokens_before / every;
}

std::unique_ptr<SaeConfig> read_sae_config(const ConfigNode& node, const std::string& path) {
  std::string type;
  ConfigReader type_reader(&node, path);
  declare_type(type_reader, type);

  std::unique_ptr<SaeConfig> config = default_sae_config(type);
  ConfigReader form_reader(&node, path);
  config->declare_form(form_reader);
  config->use_form_defaults();
  ConfigReader reader(&node, path);
  config->declare(reader);
  reader.finish();
  config->check(reader);
  if (config->name.empty()) config->name = type;
  if (!is_safe_file_name(config->name)) {
    reader.fail("name", fmt::format("= {} cannot name a folder", Json(config->name).dump()),
                "1 to 128 letters, digits, '.', '_' or '-', not starting with '.' or '-'");
  }
  return config;
}

}  // namespace thresher::sae
