#pragma once

#include <string>
#include <vector>

#include "features/feature_store.h"

namespace thresher::features {

/// For a terminal: one line a latent.
std::string summaries_text(const std::vector<LatentSummary>& summaries);
/// For a terminal: figures, tables, and contexts with the tokens on which it fires in [[..]].
std::string feature_text(const StoredFeature& feature);

}  // namespace thresher::features
