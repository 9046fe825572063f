#pragma once

#include "cli/options.h"

namespace thresher::cli {

/// Adds `features build`.
void add_feature_build(CLI::App& parent, Action& action);

}  // namespace thresher::cli
