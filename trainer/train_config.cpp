#include "trainer/train_config.h"

#include <fmt/format.h>

#include <bit>

#include "core/error.h"

namespace thresher::trainer {

void TrainConfig::declare(FieldVisitor& fields) {
  fields.field("total_tokens", total_tokens,
               {.help = "Length of training over all ranks; rounded down to whole batches.",
                .unit = "tokens",
                .min = 1,
                .is_required = true});
  fields.field("batch_tokens", batch_tokens,
               {.help = "Activations in one step, over all ranks; a multiple of lanes.",
                .unit = "tokens",
                .min = 1});
  fields.field("lanes", lanes,
               {.help = "Micro-batches that every step is cut into, a power of two; the number of "
                        "ranks must divide it, and it is part of the run's identity.",
                .min = 1,
                .max = 1024});
  fields.field("shuffle_window_tokens", shuffle_window_tokens,
               {.help = "Rows are shuffled inside windows of about this many of a lane's rows.",
                .unit = "tokens",
                .min = 1});
  fields.field("learning_rate", learning_rate,
               {.help = "Adam's step size between warm-up and decay.",
                .min = 0,
                .max = 1,
                .min_is_exclusive = true});
  fields.field("warmup_tokens", warmup_tokens,
               {.help = "The learning rate rises linearly from 0 over the first so many tokens.",
                .unit = "tokens",
                .min = 0});
  fields.field("decay_tokens", decay_tokens,
               {.help = "The learning rate falls linearly to 0 over the last so many tokens.",
                .unit = "tokens",
                .min = 0});
  fields.field("beta1", beta1,
               {.help = "Adam's decay of the mean gradient.", .min = 0, .max = 0.999999});
  fields.field("beta2", beta2,
               {.help = "Adam's decay of the squared gradient.", .min = 0, .max = 0.99999999});
  fields.field("epsilon", epsilon,
               {.help = "Adam's constant in the denominator.",
                .min = 0,
                .max = 1,
                .min_is_exclusive = true});
  fields.field("clip_gradient_norm", clip_gradient_norm,
               {.help = "Gradients are scaled down to this norm over all parameters of an SAE; 0 "
                        "turns clipping off.",
                .min = 0});
  fields.field("init_sample_rows", init_sample_rows,
               {.help = "Activations that initialisation looks at (geometric median).",
                .unit = "rows",
                .min = 1,
                .max = 1e7});
  fields.field("checkpoint_every_tokens", checkpoint_every_tokens,
               {.help = "A checkpoint is written each time so many tokens have passed; 0: only at "
                        "the end and on a stop.",
                .unit = "tokens",
                .min = 0});
  fields.field("keep_checkpoints", keep_checkpoints,
               {.help = "The newest so many checkpoints are kept, so that one damaged checkpoint "
                        "costs an interval and not the run.",
                .min = 2});
  fields.field("log_every_steps", log_every_steps,
               {.help = "A line of metrics.jsonl for every so many steps, and for the last.",
                .unit = "steps",
                .min = 1});
}

void TrainConfig::validate() const {
  if (!std::has_single_bit(static_cast<std::uint64_t>(lanes))) {
    throw ConfigError(fmt::format("train.lanes = {} is not a power of two", lanes),
                      "1, 2, 4, 8, ... 1024");
  }
  if (batch_tokens % lanes != 0) {
    throw ConfigError(fmt::format("train.batch_tokens = {} is not a multiple of train.lanes = {}",
                                  batch_tokens, lanes),
                      "every lane gives the same number of rows to every batch");
  }
  if (total_tokens < batch_tokens) {
    throw ConfigError(fmt::format("train.total_tokens = {} is less than train.batch_tokens = {}",
                                  total_tokens, batch_tokens),
                      "at least one whole batch; 400 steps or more to learn anything");
  }
  // Written without a sum, which two large numbers could overflow.
  if (warmup_tokens > total_tokens || decay_tokens > total_tokens - warmup_tokens) {
    throw ConfigError(
        fmt::format("train.warmup_tokens = {} and train.decay_tokens = {} do not fit into "
                    "train.total_tokens = {}",
                    warmup_tokens, decay_tokens, total_tokens),
        "warm-up and decay one after the other inside the run");
  }
}

}  // namespace thresher::trainer
