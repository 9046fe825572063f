#include "sae/sae_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "core/files.h"

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
               {.help = "Scale so that the mean squared norm of the inputs is d_in; folded into "
                        "the exported weights."});
  fields.field("decoder_bias_init", decoder_bias_init,
               {.help = "Where b_dec starts, over a sample of the centred, scaled inputs.",
                .choices = {"geometric_median", "mean", "zero"}});
  fields.field("dead_window_tokens", dead_window_tokens,
               {.help = "A latent silent for so many tokens counts as dead; auto: the smaller of "
                        "10M and a tenth of the run.",
                .unit = "tokens",
                .min = 1});
}

void TopKConfig::declare(FieldVisitor& fields) {
  SaeConfig::declare(fields);
  fields.field("k", k, {.help = "Latents kept per token.", .min = 1, .max = 1 << 30});
  fields.field("aux_k", aux_k,
               {.help = "Dead latents that reconstruct the residual in AuxK; auto: d_in / 2.",
                .min = 1,
                .max = 1 << 30});
  fields.field("aux_coefficient", aux_coefficient,
               {.help = "Weight of the AuxK loss; 0 turns it off.", .min = 0});
}

void ReluL1Config::declare(FieldVisitor& fields) {
  SaeConfig::declare(fields);
  fields.field("l1_coefficient", l1_coefficient,
               {.help = "Weight of the sparsity penalty against the squared error summed over "
                        "dimensions.",
                .min = 0});
  fields.field("sparsity_warmup_fraction", sparsity_warmup_fraction,
               {.help = "Part of total_tokens over which l1_coefficient rises linearly from 0.",
                .min = 0,
                .max = 1});
  fields.field(
      "decoder_init_norm", decoder_init_norm,
      {.help = "Norm of the decoder rows at the start.", .min = 0, .min_is_exclusive = true});
}

std::unique_ptr<SaeConfig> read_sae_config(const ConfigNode& node, const std::string& path) {
  std::string type;
  ConfigReader type_reader(&node, path);
  declare_type(type_reader, type);

  std::unique_ptr<SaeConfig> config = default_sae_config(type);
  ConfigReader reader(&node, path);
  config->declare(reader);
  reader.finish();
  if (config->name.empty()) config->name = type;
  if (!is_safe_file_name(config->name)) {
    reader.fail("name", fmt::format("= {} cannot name a folder", Json(config->name).dump()),
                "1 to 128 letters, digits, '.', '_' or '-', not starting with '.' or '-'");
  }
  return config;
}

}  // namespace thresher::sae
