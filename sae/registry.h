#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "sae/sae_config.h"
#include "sae/training_sae.h"

namespace thresher::sae {

/// What the rest of the program needs to know of an SAE variant.
struct Variant {
  std::string_view type;  // as in `type:` of an experiment file
  std::unique_ptr<SaeConfig> (*make_config)();
  std::unique_ptr<TrainingSae> (*make_training_sae)(const SaeConfig& config, std::int64_t d_in);
};

std::span<const Variant> variants();
/// nullptr when the type is not known.
const Variant* find_variant(std::string_view type);

}  // namespace thresher::sae
