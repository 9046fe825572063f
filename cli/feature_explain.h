#pragma once

#include "cli/options.h"

namespace thresher::cli {

/// `features explain`, under the command `features`.
void add_feature_explain(CLI::App& parent, Action& action);

}  // namespace thresher::cli
