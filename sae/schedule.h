#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace thresher::sae {

/// linear, cosine.
const std::vector<std::string>& decay_shapes();

/// Tokens over which a penalty rises: as given, else a part of the run.
double warmup_length(std::optional<std::int64_t> tokens, double fraction,
                     std::int64_t total_tokens);

/// The factor with which a learning rate or a penalty falls at the end of a run: 1 until
/// `decay_tokens` tokens are left, then down to `floor` along a straight line or half a cosine,
/// which it would reach with the step after the last. `tokens_left` is what is left before the step
/// in question.
double decay_factor(std::int64_t tokens_left, std::int64_t decay_tokens, const std::string& shape,
                    double floor);

}  // namespace thresher::sae
