#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "activation_cache/activation_source.h"
#include "comm/communicator.h"
#include "core/device.h"
#include "core/json.h"
#include "sae/sae_config.h"
#include "trainer/train_config.h"

namespace thresher::trainer {

/// One training job: several SAEs over one stream of batches.
struct TrainJob {
  TrainConfig config;
  std::vector<std::unique_ptr<sae::SaeConfig>> saes;
  std::filesystem::path run_dir;
  std::uint64_t seed = 0;
  /// The resolved experiment file: saved in the run directory and in every checkpoint, for people.
  /// Whether a checkpoint may be continued is decided by seed, source, SAEs and training fields
  /// (trainer/identity.h).
  Json resolved_config;
  /// Goes into cfg.json of the finished SAEs: model_name, context_size, dataset_path, ...
  Json export_metadata;
  /// Goes into the line of timing.jsonl that says when and where training began: versions, command.
  Json start_facts = Json::object();
  bool fresh = false;
  Device device = Device::kCpu;  // with CUDA the current GPU of the rank's thread
};

struct TrainResult {
  std::int64_t steps = 0;
  std::int64_t tokens = 0;
  double seconds = 0;  // of this call
  double tokens_per_second = 0;
  bool was_complete = false;
};

/// Trains to the end, continuing from the newest valid checkpoint of run_dir. Leaves RUN/sae/NAME
/// for every SAE, checkpoints, metrics.jsonl, timing.jsonl, status.json
/// (docs/checkpoint-format.md). Collective; every rank has its own `source` of the same data, and
/// only rank 0 touches run_dir.
///
/// StoppedBySignal (75) after saving when a stop was requested on any rank. ConfigError when
/// world_size does not divide the lanes, when a checkpoint belongs to another configuration, or
/// when another process trains in run_dir. DataError when no checkpoint is valid, or when a
/// gradient is not finite. IoError when the disk is full; the checkpoints there stay whole.
TrainResult train(const TrainJob& job, activation_cache::ActivationSource& source,
                  comm::Communicator& comm);

struct TrainEstimate {
  std::int64_t steps = 0, tokens = 0;
  std::uint64_t memory_bytes_per_rank = 0, disk_bytes = 0;
  double seconds = 0;
};
TrainEstimate estimate_training(const TrainJob& job,
                                const activation_cache::ActivationSource& source, int world_size);

}  // namespace thresher::trainer
