#include "sae/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace thresher::sae {

const std::vector<std::string>& decay_shapes() {
  static const std::vector<std::string> shapes = {"linear", "cosine"};
  return shapes;
}

double decay_factor(std::int64_t tokens_left, std::int64_t decay_tokens, const std::string& shape,
                    double floor) {
  if (tokens_left >= decay_tokens) return 1;
  double part = static_cast<double>(std::max<std::int64_t>(0, tokens_left)) /
                static_cast<double>(decay_tokens);
  if (shape == "cosine") {
    part = 0.5 * (1 - std::cos(std::numbers::pi * part));
  } else {
    THRESHER_CHECK(shape == "linear", "unknown decay shape " + shape);
  }
  return floor + (1 - floor) * part;
}

double warmup_length(std::optional<std::int64_t> tokens, double fraction,
                     std::int64_t total_tokens) {
  return tokens ? static_cast<double>(*tokens) : fraction * static_cast<double>(total_tokens);
}

}  // namespace thresher::sae
