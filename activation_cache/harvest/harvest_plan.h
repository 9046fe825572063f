#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "activation_cache/cache.h"
#include "activation_cache/cache_format.h"
#include "activation_cache/own_activations.h"
#include "corpus/corpus.h"
#include "host_model/host_model.h"

namespace thresher::activation_cache {

/// The part of the identity that follows from config, contexts and model: everything but tokenizer,
/// corpus, seed and norm limits. ConfigError for a config that cannot work with them.
CacheIdentity plan_cache(const CacheConfig& config, const corpus::PackedContexts& contexts,
                         const host_model::HostModel& model);

/// The same for somebody's own rows, all but the seed: one context a row, no rules about positions.
CacheIdentity plan_own_cache(const CacheConfig& config, const OwnActivations& rows,
                             const Json& rows_identity);

/// An upper bound on the bytes of a unit's shard (dropped positions take no place).
std::uint64_t shard_bytes_at_most(const CacheIdentity& identity, std::int64_t unit);

/// Where the host model is read, in the order of the cache.
std::vector<host_model::HookPoint> parse_hook_points(const CacheIdentity& identity);

}  // namespace thresher::activation_cache
