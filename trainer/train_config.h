#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/config.h"
#include "sae/sae_config.h"

namespace thresher::trainer {

struct TrainConfig {
  /// A length that is chosen by `settle`; `auto` in YAML.
  static constexpr std::int64_t kAuto = -1;
  /// Every length that can be chosen is left to `settle`: what an experiment file starts from.
  static TrainConfig automatic();

  std::int64_t total_tokens = 0;     // rounded down to whole batches
  std::optional<double> epochs;      // instead of total_tokens: passes over the cache
  std::int64_t batch_tokens = 4096;  // over all ranks
  std::int64_t lanes = 8;
  std::int64_t shuffle_window_tokens = 65536;
  double learning_rate = 1e-3;
  std::int64_t warmup_tokens = 0;
  std::int64_t decay_tokens = 0;       // to the floor over the last so many tokens
  std::string decay_shape = "linear";  // linear | cosine
  double decay_floor = 0;              // part of learning_rate
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double clip_gradient_norm = 1;       // 0 turns clipping off
  double ema_decay = 0;                // of the weights' average (trainer/weight_average.h); 0: off
  std::string operand_dtype = "auto";  // of what products multiply: float32 | bfloat16
  std::int64_t init_sample_rows = 8192;
  std::int64_t checkpoint_every_tokens = 0;  // 0: not by tokens
  double checkpoint_every_minutes = 10;      // 0: not by the clock
  bool background_checkpoints = true;
  std::int64_t keep_checkpoints = 2;  // >= 2
  double max_runtime_minutes = 0;     // of the whole job; 0: no limit
  std::string on_bad_step = "stop";   // stop | skip
  std::int64_t max_skipped_steps = 10;
  std::int64_t log_every_steps = 1;
  bool tensorboard = true;
  void declare(FieldVisitor& fields);
  /// Chooses what is `auto`. Where total_tokens is given: batches of 4,096 tokens, no warm-up, no
  /// decay. Where it is not, and only once the rows of the cache are known (`rows`): `epochs`
  /// passes, or as many as make 1M tokens, from 1 to 10; the largest batch (a power of two from 64
  /// to 4,096) that leaves 800 steps; a twentieth of the run for warm-up and a fifth for decay.
  void settle(std::optional<std::int64_t> rows);
  bool is_settled() const { return total_tokens != kAuto; }
  /// Checks what no single field can: batch_tokens divides by lanes, windows fit the run; lengths
  /// only once they are settled. ConfigError.
  void validate() const;
};

/// The fields that hold for one SAE of the list: the section's, with the entry's own in their
/// place. `index` is its place in the list. ConfigError naming the SAE when its ramps or its
/// variant's own schedules do not fit the run.
TrainConfig config_of(const TrainConfig& train, const sae::SaeConfig& config);

}  // namespace thresher::trainer
