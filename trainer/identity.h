#pragma once

#include <string>

#include "activation_cache/activation_source.h"
#include "core/json.h"
#include "trainer/trainer.h"

namespace thresher::trainer {

/// Everything a run's numbers depend on: {"numerics_version", "run": {"seed", "device"}, "source",
/// "sae": [...], "train": {...}}. Fields of `train` that only say when to save or to log are left
/// out, and so are ranks, threads and folders.
Json training_identity(const TrainJob& job, const activation_cache::ActivationSource& source);

/// ConfigError naming the first difference unless the identities are equal. Fields that `saved`
/// lacks because its program did not know them count as their defaults: a new field's default must
/// be what was done before the field was there. `checkpoint` names the one on disk.
void check_same_identity(const Json& saved, const Json& ours, const std::string& checkpoint);

}  // namespace thresher::trainer
