#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "trainer/checkpoint.h"
#include "trainer/run_directory.h"
#include "trainer/trained_sae.h"

namespace thresher::trainer {

std::vector<SaeSlot> slots_of(std::vector<TrainedSae>& saes);

/// Loads the newest valid checkpoint on every rank (rank 0 reads, the others receive) and cuts
/// metrics.jsonl back to it; without any checkpoint clears metrics.jsonl and returns nothing.
/// Damaged checkpoints are named in a warning and set aside. ConfigError when a checkpoint belongs
/// to another configuration, DataError with every reason when there are checkpoints and none is
/// valid. All but the newest `keep` are removed. `directory` is nullptr on other ranks than 0.
/// Collective.
std::optional<CheckpointState> resume_newest(const std::filesystem::path& run_dir,
                                             RunDirectory* directory, const Json& identity,
                                             std::vector<TrainedSae>& saes, std::int64_t keep,
                                             comm::Communicator& comm);

}  // namespace thresher::trainer
