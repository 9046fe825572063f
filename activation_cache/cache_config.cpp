#include "activation_cache/cache.h"

namespace thresher::activation_cache {

void CacheConfig::declare(FieldVisitor& fields) {
  fields.field(
      "dir", dir,
      {.help = "Folder of the activation cache. A cache with the same identity is continued or "
               "reused; one with another identity is refused. Left out: caches/ and the name of "
               "the run."});
  fields.field("hook_points", hook_points,
               {.help = "Where in the host model activations are read, as TransformerLens names: "
                        "hook_embed, blocks.L.hook_resid_pre, blocks.L.hook_resid_mid, "
                        "blocks.L.hook_resid_post, blocks.L.hook_attn_out, blocks.L.hook_mlp_out, "
                        "ln_final.hook_normalized. Several are harvested in one pass and share "
                        "their rows."});
  fields.field(
      "dtype", dtype,
      {.help = "Element type on disk. float16 keeps three more bits than bfloat16 but holds "
               "no value above 65504; an overflow is an error. auto: bfloat16; of own activations "
               "(and the default there) the type of the files, float64 as float32.",
       .choices = {"bfloat16", "float16", "float32", "auto"}});
  fields.field(
      "unit_tokens", unit_tokens,
      {.help = "Tokens of one work unit, that is of one shard file; rounded down to whole "
               "contexts. A rank holds one unit in memory; a stop loses at most one a rank.",
       .unit = "tokens",
       .min = 1,
       .max = 2147483648.0});
  fields.field("drop_first_positions", drop_first_positions,
               {.help = "Positions dropped at the start of each document's piece in a context. The "
                        "first one is an attention sink with a norm hundreds of times the median.",
                .unit = "tokens",
                .min = 0,
                .max = 16777216.0});
  fields.field("drop_special_tokens", drop_special_tokens,
               {.help = "Drop positions whose token is a special one (begin, end, chat marks)."});
  fields.field("drop_norm_above", drop_norm_above,
               {.help = "Drop rows whose norm exceeds this many times the median norm of non-first "
                        "positions, taken from the first unit; a row goes if any hook point's norm "
                        "exceeds its limit. 0 turns the rule off, and is the default of own "
                        "activations, which know no positions and no special tokens either.",
                .min = 0,
                .max = 1e9});
  fields.field(
      "stall_seconds", stall_seconds,
      {.help = "A harvest over several ranks ends with exit code 70 when one of them, though "
               "alive, has computed nothing for so long: a hanging device or storage. Raise "
               "it where one pass of the host takes minutes.",
       .unit = "seconds",
       .min = 0,
       .max = 1e6,
       .min_is_exclusive = true});
}

}  // namespace thresher::activation_cache
