#pragma once

#include <filesystem>

#include "cli/experiment.h"
#include "cli/stages.h"
#include "comm/communicator.h"
#include "core/json.h"

namespace thresher::cli {

/// Held-out reconstruction of every SAE at every checkpoint that is kept, from one pass of the host
/// model: [{"tokens", "name", "fvu", "l0"}, ...] in order of tokens. Collective; every rank gets
/// the result. ConfigError when the run has no checkpoint.
Json held_out_curve(const Experiment& experiment, const std::filesystem::path& run_dir,
                    Inputs& inputs, comm::Communicator& comm);

}  // namespace thresher::cli
