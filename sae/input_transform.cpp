#include <fmt/format.h>

#include <cmath>

#include "core/error.h"
#include "sae/training_sae.h"

namespace thresher::sae {

InputTransform make_input_transform(const SaeConfig& config,
                                    const activation_cache::SourceStatistics& statistics) {
  InputTransform transform;
  transform.centre =
      config.centre_inputs ? statistics.mean : std::vector<double>(statistics.mean.size(), 0.0);
  if (!config.scale_inputs) return transform;
  const double square =
      config.centre_inputs ? statistics.mean_squared_deviation : statistics.mean_squared_norm;
  if (square == 0) {
    throw ConfigError(
        fmt::format("sae {}: the activations of {} cannot be scaled: their rows are "
                    "all {}",
                    config.name, config.hook_point, config.centre_inputs ? "equal" : "zero"),
        "activations that vary", "look at `thresher cache info`");
  }
  if (!(square > 0) || !std::isfinite(square)) {
    throw ConfigError(
        fmt::format("sae {}: the activations of {} cannot be scaled, their mean squared {} is {}",
                    config.name, config.hook_point, config.centre_inputs ? "deviation" : "norm",
                    square),
        "activations that vary", "look at `thresher cache info`");
  }
  const auto d_in = static_cast<std::int64_t>(statistics.mean.size());
  transform.scale = std::sqrt(config.input_mean_square(d_in) / square);
  return transform;
}

}  // namespace thresher::sae
