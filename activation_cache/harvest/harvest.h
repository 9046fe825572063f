#pragma once

#include <cstdint>

#include "activation_cache/cache.h"
#include "activation_cache/own_activations.h"
#include "comm/communicator.h"
#include "corpus/corpus.h"
#include "host_model/host_model.h"

namespace thresher::activation_cache {

/// Before work starts: what it will need. Numbers are for people; `disk_bytes` is also compared
/// with free space.
struct HarvestEstimate {
  std::int64_t units = 0, units_left = 0, tokens = 0;
  std::uint64_t disk_bytes = 0;
  std::uint64_t memory_bytes_per_rank = 0;
  double seconds = 0;  // rough, from parameter count and a measured product in the model's type
  double seconds_in_float32 = 0;  // the same with a product in float32
};

struct HarvestResult {
  std::int64_t tokens = 0;  // harvested by all ranks in this call
  std::int64_t rows = 0;    // in the whole cache
  double seconds = 0;
  bool was_complete = false;  // nothing was left to do
};

/// Fills (or continues) the cache in config.dir over all ranks. Exits by StoppedBySignal when a
/// stop was requested (core/stop_signal.h). ConfigError (78) for a cache with another identity,
/// naming the first difference, or one that another harvest holds; IoError (74) when the disk
/// cannot hold the result. Any rank count gives the same bytes. `corpus_identity` is whatever
/// decides the contexts (fingerprint); `seed` orders the rows inside a unit.
HarvestResult harvest(const CacheConfig& config, const corpus::PackedContexts& contexts,
                      const Json& corpus_identity, const corpus::Tokenizer& tokenizer,
                      host_model::HostModel& model, comm::Communicator& comm, std::uint64_t seed);

HarvestEstimate estimate_harvest(const CacheConfig& config, const corpus::PackedContexts& contexts,
                                 const host_model::HostModel& model, int world_size);

/// The same from somebody's own rows instead of text and host model; a context is one row, and the
/// rows that are held out are dropped. `rows_identity` is what decides them (file_identity.h).
/// DataError naming file and row for a value that is not finite or does not fit the cache's dtype.
HarvestResult harvest_own(const CacheConfig& config, const OwnActivations& rows,
                          const Json& rows_identity, comm::Communicator& comm, std::uint64_t seed);
HarvestEstimate estimate_own_harvest(const CacheConfig& config, const OwnActivations& rows,
                                     const Json& rows_identity, int world_size);

/// The rule by which positions are kept, shared by harvest and evaluation: true where a row of
/// activations belongs to the cache. `token_ids` and `positions` are [n_contexts, context_tokens]
/// int64, `activations` [tokens, width] one a hook point of the cache, `norm_limits` one a hook
/// point (read_norm_limits) or empty when the rule is off.
std::vector<std::uint8_t> kept_positions(const CacheConfig& config,
                                         const corpus::Tokenizer& tokenizer,
                                         const at::Tensor& token_ids, const at::Tensor& positions,
                                         const std::vector<at::Tensor>& activations,
                                         const std::vector<double>& norm_limits);

}  // namespace thresher::activation_cache
