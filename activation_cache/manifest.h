#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "activation_cache/activation_source.h"
#include "activation_cache/cache_format.h"
#include "activation_cache/commit_log.h"
#include "activation_cache/unit_record.h"

namespace thresher::activation_cache {

/// A complete cache: all its units in order, and sums over them.
struct Manifest {
  std::vector<UnitRecord> units;
  std::int64_t rows = 0;
  std::uint64_t bytes = 0;
  DropCounts dropped;
  std::vector<SourceStatistics> statistics;  // one a hook point
};

/// Writes MANIFEST.json from the commit records; its bytes hold no time, host or rank. Every unit
/// must be there.
void write_manifest(const std::filesystem::path& dir, const CacheIdentity& identity,
                    const CommittedUnits& committed);
/// The manifest in the text of a MANIFEST.json; `where` starts each message. DataError if it is
/// damaged or belongs to another cache.json.
Manifest parse_manifest(std::string_view text, const std::string& where,
                        const CacheIdentity& identity);
/// The checksum that the manifest `json` carries, over everything else in it.
std::string manifest_sha256(const Json& json);
/// DataError if there is none, if it is damaged, or if it belongs to another cache.json.
Manifest read_manifest(const std::filesystem::path& dir, const CacheIdentity& identity);

}  // namespace thresher::activation_cache
