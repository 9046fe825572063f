#include "sae/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "core/error.h"
#include "sae/device_topk_sae.h"
#include "sae/jumprelu_sae.h"
#include "sae/relu_l1_sae.h"
#include "sae/topk_sae.h"

namespace thresher::sae {
namespace {

template <class Config, class Sae>
constexpr Variant variant(std::string_view type) {
  return {type, [] { return std::unique_ptr<SaeConfig>(std::make_unique<Config>()); },
          [](const SaeConfig& config, std::int64_t d_in) {
            const auto* typed = dynamic_cast<const Config*>(&config);
            THRESHER_CHECK(typed != nullptr, "a variant is made from its own config");
            return std::unique_ptr<TrainingSae>(std::make_unique<Sae>(*typed, d_in));
          }};
}

constexpr std::array kVariants = {
    variant<TopKConfig, TopKSae>("topk"),
    variant<BatchTopKConfig, TopKSae>("batch_topk"),
    variant<ReluL1Config, ReluL1Sae>("relu_l1"),
    variant<JumpReluConfig, JumpReluSae>("jumprelu"),
};

}  // namespace

std::span<const Variant> variants() { return kVariants; }

const Variant* find_variant(std::string_view type) {
  const auto found = std::find_if(kVariants.begin(), kVariants.end(),
                                  [&](const Variant& v) { return v.type == type; });
  return found == kVariants.end() ? nullptr : &*found;
}

std::vector<std::string> sae_types() {
  std::vector<std::string> types;
  for (const Variant& variant : kVariants) types.emplace_back(variant.type);
  return types;
}

std::unique_ptr<SaeConfig> default_sae_config(const std::string& type) {
  const Variant* variant = find_variant(type);
  THRESHER_CHECK(variant != nullptr, "no SAE variant of this type: " + type);
  std::unique_ptr<SaeConfig> config = variant->make_config();
  config->type = type;
  return config;
}

std::unique_ptr<TrainingSae> make_training_sae(const SaeConfig& config, std::int64_t d_in,
                                               const TrainingPlace& place) {
  const Variant* variant = find_variant(config.type);
  THRESHER_CHECK(variant != nullptr, "no SAE variant of this type: " + config.type);
  if (place.device == Device::kCpu && !place.has_bfloat16_operands) {
    return variant->make_training_sae(config, d_in);
  }
  if (place.device == Device::kCpu) {
    throw ConfigError(
        fmt::format("sae {}: train.operand_dtype = bfloat16: processors train in float32",
                    config.name),
        "train.operand_dtype: float32, or run.device: cuda");
  }
  if (config.type != "topk") {
    throw ConfigError(
        fmt::format("sae {}: type {} cannot be trained on cuda", config.name, config.type),
        "type: topk, or run.device: cpu",
        "a cache that was made on cuda can be trained on with run.device: cpu");
  }
  return std::make_unique<DeviceTopKSae>(dynamic_cast<const TopKConfig&>(config), d_in, place);
}

}  // namespace thresher::sae
