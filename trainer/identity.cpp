#include "trainer/identity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "core/config.h"
#include "core/error.h"
#include "core/version.h"
#include "sae/registry.h"

namespace thresher::trainer {
namespace {

// Raised whenever a change alters the bits of training alone, so that caches stay valid: no run is
// continued half one way and half the other.
constexpr int kStepNumericsVersion = 3;

constexpr std::array<std::string_view, 10> kUndecidingFields = {"checkpoint_every_tokens",
                                                                "checkpoint_every_minutes",
                                                                "background_checkpoints",
                                                                "keep_checkpoints",
                                                                "max_runtime_minutes",
                                                                "on_bad_step",
                                                                "max_skipped_steps",
                                                                "log_every_steps",
                                                                "epochs",
                                                                "tensorboard"};

Json deciding_fields(TrainConfig config) {
  ConfigWriter writer;
  config.declare(writer);
  Json out = Json::object();
  for (const auto& [name, value] : writer.json().as_object()) {
    // `epochs` has become total_tokens; the others say when to save, to log or to give up.
    if (std::find(kUndecidingFields.begin(), kUndecidingFields.end(), name) !=
        kUndecidingFields.end()) {
      continue;
    }
    out[name] = value;
  }
  return out;
}

/// Adds what `defaults` has and `fields` lacks.
void add_missing(Json& fields, const Json& defaults) {
  if (!fields.is_object()) return;
  for (const auto& [name, value] : defaults.as_object()) {
    if (fields.find(name) == nullptr) fields[name] = value;
  }
}

/// An identity as this program would have written it. A field that its program did not know yet
/// holds its default, because the default of a new field is what was done before it.
Json completed(Json saved) {
  if (!saved.is_object()) return saved;
  // Before there was a choice all was trained on the CPU.
  const Json on_cpu = Json::object({{"device", std::string(device_name(Device::kCpu))}});
  if (saved.find("run") != nullptr) add_missing(saved["run"], on_cpu);
  if (saved.find("train") != nullptr) add_missing(saved["train"], deciding_fields({}));
  const Json* list = saved.find("sae");
  if (list == nullptr || !list->is_array()) return saved;
  Json saes = Json::array();
  for (Json entry : list->as_array()) {
    const Json* type = entry.is_object() ? entry.find("type") : nullptr;
    if (type != nullptr && type->is_string() && sae::find_variant(type->as_string()) != nullptr) {
      ConfigWriter writer;
      sae::default_sae_config(type->as_string())->declare(writer);
      add_missing(entry, writer.json());
    }
    saes.push_back(std::move(entry));
  }
  saved["sae"] = std::move(saes);
  return saved;
}

}  // namespace

Json training_identity(const TrainJob& job, const activation_cache::ActivationSource& source) {
  Json saes = Json::array();
  for (const auto& config : job.saes) {
    ConfigWriter writer;
    config->declare(writer);
    saes.push_back(writer.json());
  }
  const Json run =
      Json::object({{"seed", job.seed}, {"device", std::string(device_name(job.device))}});
  const Json identity = Json::object({{"numerics_version", kNumericsVersion},
                                      {"step_numerics_version", kStepNumericsVersion},
                                      {"run", run},
                                      {"source", source.identity()},
                                      {"sae", saes},
                                      {"train", deciding_fields(job.config)}});
  // As it will come back from a file, so that numbers compare equal in kind too.
  return Json::parse(identity.dump(), "identity");
}

void check_same_identity(const Json& saved, const Json& ours, const std::string& checkpoint) {
  const std::string difference = first_difference(completed(saved), ours);
  if (difference.empty()) return;
  throw ConfigError(
      fmt::format("{}: was made with another configuration: {}", checkpoint, difference),
      "the checkpoint's value (first) and this run's (second) are the same",
      "take the old value back, give the run another run.name, or start over with --fresh "
      "(the old directory is kept)");
}

}  // namespace thresher::trainer
