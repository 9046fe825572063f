#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "features/sqlite.h"

namespace thresher::features {

/// The numbers of latents that FeatureStore::search finds, best first.
std::vector<std::int64_t> search_store(SqliteDatabase& database, std::string_view words,
                                       std::int64_t limit);

}  // namespace thresher::features
