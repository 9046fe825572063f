#include "trainer/train_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/error.h"
#include "sae/schedule.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kGivenBatchTokens = 4096;
// What is aimed at when nobody says how long to train: passes over a small cache until an SAE has
// seen enough to be worth looking at, one pass over a large one.
constexpr std::int64_t kAimTokens = 1'000'000;
constexpr std::int64_t kMostEpochs = 10;
constexpr std::int64_t kAimSteps = 800;
constexpr std::int64_t kSmallestBatch = 64;
constexpr std::int64_t kWarmupParts = 20;
constexpr std::int64_t kDecayParts = 5;

/// A length that may be chosen later, as a field of type "integer or auto".
void length_field(FieldVisitor& fields, const char* name, std::int64_t& value,
                  const FieldInfo& info) {
  std::optional<std::int64_t> given;
  if (value != TrainConfig::kAuto) given = value;
  fields.field(name, given, info);
  value = given.value_or(TrainConfig::kAuto);
}

void check_ramps(const TrainConfig& config, const std::string& section) {
  // Written without a sum, which two large numbers could overflow.
  if (config.warmup_tokens > config.total_tokens ||
      config.decay_tokens > config.total_tokens - config.warmup_tokens) {
    throw ConfigError(
        fmt::format("{0}.warmup_tokens = {1} and {0}.decay_tokens = {2} do not fit into "
                    "train.total_tokens = {3}",
                    section, config.warmup_tokens, config.decay_tokens, config.total_tokens),
        "warm-up and decay one after the other inside the run");
  }
  if (config.decay_floor != 0 && config.decay_tokens == 0) {
    throw ConfigError(fmt::format("{}.decay_floor = {} has no use without decay_tokens", section,
                                  config.decay_floor),
                      "over how many tokens the learning rate falls to it");
  }
}

}  // namespace

TrainConfig TrainConfig::automatic() {
  TrainConfig config;
  config.total_tokens = config.batch_tokens = kAuto;
  config.warmup_tokens = config.decay_tokens = kAuto;
  return config;
}

void TrainConfig::declare(FieldVisitor& fields) {
  length_field(fields, "total_tokens", total_tokens,
               {.help = "Length of training over all ranks; rounded down to whole batches. auto: "
                        "`epochs` passes over the cache.",
                .unit = "tokens",
                .min = 1});
  fields.field("epochs", epochs,
               {.help = "Length of training in passes over the cache, instead of total_tokens. "
                        "auto: as many as make 1M tokens, from 1 to 10.",
                .min = 0,
                .max = 1e6,
                .min_is_exclusive = true});
  length_field(fields, "batch_tokens", batch_tokens,
               {.help = "Activations in one step, over all ranks; a multiple of lanes. auto: 4096; "
                        "where total_tokens is left out too, the largest power of two from 64 to "
                        "4096 that leaves 800 steps.",
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
  length_field(fields, "warmup_tokens", warmup_tokens,
               {.help = "The learning rate rises linearly from 0 over the first so many tokens. "
                        "auto: none; where total_tokens is left out too, a twentieth of the run.",
                .unit = "tokens",
                .min = 0});
  length_field(fields, "decay_tokens", decay_tokens,
               {.help = "The learning rate falls to decay_floor over the last so many tokens; 0: "
                        "it stays. auto: 0; where total_tokens is left out too, a fifth of the "
                        "run.",
                .unit = "tokens",
                .min = 0});
  fields.field("decay_shape", decay_shape,
               {.help = "How it falls: along a straight line or half a cosine.",
                .choices = sae::decay_shapes()});
  fields.field("decay_floor", decay_floor,
               {.help = "Where it falls to, as a part of learning_rate.", .min = 0, .max = 1});
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
  fields.field("ema_decay", ema_decay,
               {.help = "What is evaluated and exported is an exponential moving average of the "
                        "weights over about 1 / (1 - ema_decay) steps; 0: the last weights.",
                .min = 0,
                .max = 0.99999999});
  fields.field(
      "operand_dtype", operand_dtype,
      {.help = "Number type of what the products of a step multiply; sums, weights and Adam are "
               "float32. auto: float32 on cpu, which knows no other, bfloat16 on cuda.",
       .choices = {"auto", "float32", "bfloat16"}});
  fields.field("init_sample_rows", init_sample_rows,
               {.help = "Activations that initialisation looks at (geometric median).",
                .unit = "rows",
                .min = 1,
                .max = 1e7});
  fields.field("checkpoint_every_tokens", checkpoint_every_tokens,
               {.help = "A checkpoint is written each time so many tokens have passed; 0: by the "
                        "clock, at the end and on a stop only.",
                .unit = "tokens",
                .min = 0});
  fields.field("checkpoint_every_minutes", checkpoint_every_minutes,
               {.help = "A checkpoint is written when the last one is so old: what a kill costs at "
                        "most. 0: by tokens, at the end and on a stop only.",
                .unit = "minutes",
                .min = 0,
                .max = 1e6});
  fields.field(
      "background_checkpoints", background_checkpoints,
      {.help = "Training copies what a checkpoint holds and goes on while that is written. "
               "false: it waits, and rank 0 needs no memory for the copy."});
  fields.field("keep_checkpoints", keep_checkpoints,
               {.help = "The newest so many checkpoints are kept, so that one damaged checkpoint "
                        "costs an interval and not the run.",
                .min = 2});
  fields.field("max_runtime_minutes", max_runtime_minutes,
               {.help = "The job saves and stops (exit 75) when its process is so old, harvest "
                        "included, as if a signal had come: for launchers that send none. 0: no "
                        "limit.",
                .unit = "minutes",
                .min = 0,
                .max = 1e7});
  fields.field("on_bad_step", on_bad_step,
               {.help = "When an SAE's gradient is not finite: stop the run, or leave this step of "
                        "this SAE out. Its batch is kept in RUN/bad-steps either way.",
                .choices = {"stop", "skip"}});
  fields.field("max_skipped_steps", max_skipped_steps,
               {.help = "So many steps of an SAE are left out at most; the next one stops the run.",
                .unit = "steps",
                .min = 1});
  fields.field("log_every_steps", log_every_steps,
               {.help = "A line of metrics.jsonl for every so many steps, and for the last.",
                .unit = "steps",
                .min = 1});
  fields.field("tensorboard", tensorboard,
               {.help = "Write the figures of metrics.jsonl for TensorBoard, too: "
                        "`tensorboard --logdir RUN/tensorboard`."});
}

void TrainConfig::settle(std::optional<std::int64_t> rows) {
  std::int64_t warmup = 0, decay = 0, batch = kGivenBatchTokens;
  if (total_tokens == kAuto) {
    if (!rows) return;
    const auto cache_rows = std::max<std::int64_t>(1, *rows);
    const double passes = epochs.value_or(static_cast<double>(
        std::clamp((kAimTokens + cache_rows - 1) / cache_rows, std::int64_t{1}, kMostEpochs)));
    total_tokens = static_cast<std::int64_t>(
        std::min(std::round(passes * static_cast<double>(cache_rows)), 9e15));
    const auto steps_batch = static_cast<std::uint64_t>(
        std::clamp(total_tokens / kAimSteps, kSmallestBatch, kGivenBatchTokens));
    batch = std::max(static_cast<std::int64_t>(std::bit_floor(steps_batch)), lanes);
    if (batch_tokens != kAuto) batch = batch_tokens;
    if (total_tokens >= batch) total_tokens -= total_tokens % batch;
    warmup = total_tokens / kWarmupParts;
    decay = total_tokens / kDecayParts;
    epochs.reset();
  }
  if (batch_tokens == kAuto) batch_tokens = batch;
  if (warmup_tokens == kAuto) warmup_tokens = warmup;
  if (decay_tokens == kAuto) decay_tokens = decay;
}

void TrainConfig::validate() const {
  if (!std::has_single_bit(static_cast<std::uint64_t>(lanes))) {
    throw ConfigError(fmt::format("train.lanes = {} is not a power of two", lanes),
                      "1, 2, 4, 8, ... 1024");
  }
  if (total_tokens != kAuto && epochs) {
    throw ConfigError(
        fmt::format("train.epochs = {} and train.total_tokens = {} both say how long training is",
                    *epochs, total_tokens),
        "one of them");
  }
  if (batch_tokens != kAuto && batch_tokens % lanes != 0) {
    throw ConfigError(fmt::format("train.batch_tokens = {} is not a multiple of train.lanes = {}",
                                  batch_tokens, lanes),
                      "every lane gives the same number of rows to every batch");
  }
  if (!is_settled()) return;
  if (total_tokens < batch_tokens) {
    throw ConfigError(fmt::format("train.total_tokens = {} is less than train.batch_tokens = {}",
                                  total_tokens, batch_tokens),
                      "at least one whole batch; 400 steps or more to learn anything");
  }
  check_ramps(*this, "train");
}

TrainConfig config_of(const TrainConfig& train, const sae::SaeConfig& config) {
  TrainConfig out = train;
  const sae::TrainOverrides& own = config.train;
  out.learning_rate = own.learning_rate.value_or(train.learning_rate);
  out.warmup_tokens = own.warmup_tokens.value_or(train.warmup_tokens);
  out.decay_tokens = own.decay_tokens.value_or(train.decay_tokens);
  if (own.decay_shape != "auto") out.decay_shape = own.decay_shape;
  out.decay_floor = own.decay_floor.value_or(train.decay_floor);
  out.beta1 = own.beta1.value_or(train.beta1);
  out.beta2 = own.beta2.value_or(train.beta2);
  out.epsilon = own.epsilon.value_or(train.epsilon);
  out.clip_gradient_norm = own.clip_gradient_norm.value_or(train.clip_gradient_norm);
  out.ema_decay = own.ema_decay.value_or(train.ema_decay);
  check_ramps(out, "sae " + config.name);
  config.check_lengths(train.total_tokens);
  return out;
}

}  // namespace thresher::trainer
