#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "activation_cache/cache.h"
#include "activation_cache/own_activations.h"
#include "comm/communicator.h"
#include "core/config.h"
#include "core/device.h"
#include "core/json.h"
#include "corpus/corpus.h"
#include "evaluation/evaluation.h"
#include "host_model/host_model.h"
#include "sae/sae_config.h"
#include "trainer/train_config.h"
#include "trainer/trainer.h"

namespace thresher::cli {

/// Section `run` of an experiment.
struct RunConfig {
  std::string name;
  std::string dir = "runs";
  std::int64_t seed = 42;
  std::string device = "cpu";
  std::optional<std::int64_t> threads;  // a rank; auto: this host's cores over its ranks
  Device place() const { return device == "cuda" ? Device::kCuda : Device::kCpu; }
  void declare(FieldVisitor& fields);
};

/// A whole experiment file. Relative paths are relative to the working directory.
struct Experiment {
  RunConfig run;
  /// Somebody's own activations instead of `corpus` and `host_model`, which then say nothing.
  std::optional<activation_cache::OwnActivationsConfig> activations;
  corpus::CorpusConfig corpus;
  host_model::HostModelConfig host_model;
  activation_cache::CacheConfig cache;
  std::vector<std::shared_ptr<sae::SaeConfig>> saes;  // shared by copies; never changed
  std::vector<std::string> sae_places;  // "configs/a.yaml:26:3", one an SAE, for messages
  trainer::TrainConfig train = trainer::TrainConfig::automatic();
  evaluation::EvaluationConfig evaluation;
  comm::CommConfig comm;

  std::filesystem::path run_dir() const { return std::filesystem::path(run.dir) / run.name; }
  std::uint64_t seed() const { return static_cast<std::uint64_t>(run.seed); }
  /// Every field with its value, `sae` always as a list: what config.resolved.yaml holds.
  Json resolved() const;
  /// The part of it that training needs. `fresh` starts over in a new run directory.
  trainer::TrainJob train_job(bool fresh) const;
};

/// What an experiment is read for: harvesting alone needs no `sae` and no `train` section (they are
/// checked where they are there).
enum class Purpose { kWhole, kHarvest };

/// Reads, overrides and checks an experiment file, everything that can be checked without opening
/// another file. What is left out gets its default; what follows from the cache is settled once
/// that is open (settle_training). ConfigError with file:line:column; UsageError for a malformed
/// override; DeviceError for a device that cannot train.
Experiment load_experiment(const std::filesystem::path& path,
                           const std::vector<std::string>& overrides,
                           Purpose purpose = Purpose::kWhole);
/// The experiment of a run directory, as it was resolved. ConfigError where there is no run.
Experiment load_run(const std::filesystem::path& run_dir,
                    const std::vector<std::string>& overrides);
Experiment read_experiment(const ConfigNode& root, Purpose purpose);

/// Chooses what the `train` section left `auto`, for a cache of so many rows. True if there was
/// something to choose. ConfigError.
bool settle_training(Experiment& experiment, std::int64_t rows);

/// One section of the file as documentation sees it.
struct SectionDescription {
  std::string name;      // "train"; a variant of an SAE is "sae (type: topk)"
  std::string key;       // "train"; "sae"
  std::string sae_type;  // of a variant
  std::string help;
  std::vector<FieldDescription> fields;
};
/// In the order of the file, one entry a variant for `sae`.
std::vector<SectionDescription> describe_sections();

}  // namespace thresher::cli
