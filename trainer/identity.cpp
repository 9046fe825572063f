#include "trainer/identity.h"

#include <fmt/format.h>

#include "core/config.h"
#include "core/error.h"
#include "core/version.h"

namespace thresher::trainer {
namespace {

Json deciding_fields(TrainConfig config) {
  ConfigWriter writer;
  config.declare(writer);
  Json out = Json::object();
  for (const auto& [name, value] : writer.json().as_object()) {
    // `epochs` has become total_tokens; the others only say when to save or to log.
    if (name == "checkpoint_every_tokens" || name == "keep_checkpoints" ||
        name == "log_every_steps" || name == "epochs") {
      continue;
    }
    out[name] = value;
  }
  return out;
}

}  // namespace

Json training_identity(const TrainJob& job, const activation_cache::ActivationSource& source) {
  Json saes = Json::array();
  for (const auto& config : job.saes) {
    ConfigWriter writer;
    config->declare(writer);
    saes.push_back(writer.json());
  }
  const Json identity = Json::object({{"numerics_version", kNumericsVersion},
                                      {"run", Json::object({{"seed", job.seed}})},
                                      {"source", source.identity()},
                                      {"sae", saes},
                                      {"train", deciding_fields(job.config)}});
  // As it will come back from a file, so that numbers compare equal in kind too.
  return Json::parse(identity.dump(), "identity");
}

void check_same_identity(const Json& saved, const Json& ours, const std::string& checkpoint) {
  const std::string difference = first_difference(saved, ours);
  if (difference.empty()) return;
  throw ConfigError(
      fmt::format("{}: was made with another configuration: {}", checkpoint, difference),
      "the checkpoint's value (first) and this run's (second) are the same",
      "take the old value back, give the run another run.name, or start over with --fresh "
      "(the old directory is kept)");
}

}  // namespace thresher::trainer
