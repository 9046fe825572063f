#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "activation_cache/activation_source.h"
#include "core/config.h"
#include "core/json.h"

namespace thresher::activation_cache {

/// `corpus.kind` of a cache that was made from somebody's own activations (own_activations.h).
inline constexpr const char* kOwnActivationsKind = "activations";
/// What a hook point may be called in a cache: 1 to 200 letters, digits, '.', '_' and '-'.
bool is_hook_point_name(std::string_view name);

struct CacheConfig {
  std::string dir;
  std::vector<std::string> hook_points;
  std::string dtype = "bfloat16";
  std::int64_t unit_tokens = 65536;
  std::int64_t drop_first_positions = 1;
  bool drop_special_tokens = true;
  double drop_norm_above =
      10;  // times the median norm of non-first positions of unit 0; 0 turns it off
  double stall_seconds = 600;  // of one rank among several
  void declare(FieldVisitor& fields);
};

/// "1.10.8": the HDF5 library in use.
std::string hdf5_version();

/// A complete cache, opened for training. Reads shards by pread at recorded offsets, without
/// libhdf5; checks each block's CRC32C on first touch. DataError if the cache is incomplete or a
/// file has the wrong size.
std::unique_ptr<ActivationSource> open_cache_source(const std::filesystem::path& dir);

/// True when MANIFEST.json is there (every unit committed).
bool is_cache_complete(const std::filesystem::path& dir);
/// cache.json of a cache folder (its identity). ConfigError where there is no cache.
Json read_cache_identity(const std::filesystem::path& dir);
/// The norm above which a row is dropped, one a hook point in the order of the cache; empty when
/// the rule is off.
std::vector<double> read_norm_limits(const Json& identity);

/// What `cache info` prints: identity, units, rows, dropped rows by reason, bytes, moments summary,
/// quality of the shuffle (same-document collisions in a batch against an ideal shuffle).
Json cache_info(const std::filesystem::path& dir, const BatchPlan& plan);

/// One finding of `cache verify`.
struct Damage {
  std::string file;
  std::string dataset;         // name, or "metadata"
  std::int64_t first_row = 0;  // of the damaged block
  std::int64_t end_row = 0;
  std::string problem;
};
/// Reads every committed shard and compares hashes and block checksums. Empty when sound.
std::vector<Damage> verify_cache(const std::filesystem::path& dir);

}  // namespace thresher::activation_cache
