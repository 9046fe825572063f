#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"
#include "sae/training_sae.h"

namespace thresher::trainer {

/// A step whose gradient norm is not finite. Nothing was updated by it; every rank throws the same.
struct BadStep : DataError {
  BadStep(const std::string& sae_name, std::int64_t bad_step, const std::string& bad_place);
  std::string sae;
  std::int64_t step = 0;
  std::string place;  // of the first bad value, for people
};

/// Finds the first value of a bad step that is not finite. Inputs come first because they are the
/// usual cause. `lanes` [rows, d_in]: this rank's. Collective.
BadStep describe_bad_step(sae::TrainingSae& sae, std::int64_t step,
                          const std::vector<at::Tensor>& lanes, comm::Communicator& comm);

/// Keeps the batch of a bad step, so that it can be looked at and fed to another program:
/// RUN/bad-steps/step-<step>-<SAE>/lanes-<first>.safetensors, one file a rank with its lanes
/// "lane.<l>" [rows, d_in] float32 as the SAE saw them, and record.json with the step, the SAE, the
/// place of the first bad value, and `identity` (what the numbers depend on). The state before the
/// step follows from the last checkpoint: the same command comes to the same step with the same
/// bits. Returns the folder. Collective.
std::filesystem::path keep_bad_step(const std::filesystem::path& run_dir, const BadStep& bad,
                                    const std::vector<at::Tensor>& lanes, const Json& identity,
                                    comm::Communicator& comm);

}  // namespace thresher::trainer
