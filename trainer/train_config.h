#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/config.h"

namespace thresher::trainer {

struct TrainConfig {
  std::int64_t total_tokens = 0;     // required; rounded down to whole batches
  std::int64_t batch_tokens = 4096;  // over all ranks
  std::int64_t lanes = 8;
  std::int64_t shuffle_window_tokens = 65536;
  double learning_rate = 1e-3;
  std::int64_t warmup_tokens = 0;
  std::int64_t decay_tokens = 0;  // linear to 0 over the last so many tokens
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double clip_gradient_norm = 1;  // 0 turns clipping off
  std::int64_t init_sample_rows = 8192;
  std::int64_t checkpoint_every_tokens = 0;  // 0: only at the end and on a stop
  std::int64_t keep_checkpoints = 2;         // >= 2
  std::int64_t log_every_steps = 1;
  void declare(FieldVisitor& fields);
  /// Checks what no single field can: batch_tokens divides by lanes, windows fit the run.
  /// ConfigError.
  void validate() const;
};

}  // namespace thresher::trainer
