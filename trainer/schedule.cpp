#include "sae/schedule.h"

#include <algorithm>

#include "trainer/step.h"

namespace thresher::trainer {

double learning_rate_at(const TrainConfig& config, std::int64_t tokens_before) {
  const std::int64_t total = config.total_tokens - config.total_tokens % config.batch_tokens;
  double factor = 1;
  if (tokens_before < config.warmup_tokens) {
    factor = static_cast<double>(tokens_before) / static_cast<double>(config.warmup_tokens);
  }
  // Rounding the run down to whole batches can let the two ramps overlap by less than a batch.
  factor = std::min(factor, sae::decay_factor(total - tokens_before, config.decay_tokens,
                                              config.decay_shape, config.decay_floor));
  return config.learning_rate * factor;
}

}  // namespace thresher::trainer
