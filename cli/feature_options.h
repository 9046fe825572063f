#pragma once

#include <string>

#include "cli/options.h"
#include "features/feature_store.h"

namespace thresher::cli {

/// What commands that read a feature store take: RUN is a run directory, or the file of a store.
struct StoreOptions : Options {
  std::string sae;  // --sae
};

/// The positional RUN, --sae and the output options.
void add_store_options(CLI::App& command, StoreOptions& options);

/// The path of the store: RUN/features/NAME.sqlite of the SAE that --sae names or of the only one
/// that has a store. ConfigError where there is none or a choice to make.
std::filesystem::path find_store(const StoreOptions& options);
features::FeatureStore open_store(const StoreOptions& options);

}  // namespace thresher::cli
