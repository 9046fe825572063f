#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "activation_cache/cache_format.h"
#include "activation_cache/moments.h"
#include "core/json.h"

namespace thresher::activation_cache {

/// Positions of a unit that did not become rows, by the first rule that dropped them.
struct DropCounts {
  std::int64_t first = 0;    // among the first positions of a document's piece
  std::int64_t special = 0;  // special token
  std::int64_t norm = 0;     // norm above the limit at some hook point
  /// Kept for evaluation. Text is split before it is cut into units, so only own activations have
  /// any; written where it is not 0.
  std::int64_t held_out = 0;
  DropCounts& operator+=(const DropCounts& other);
  bool operator==(const DropCounts&) const = default;
  Json to_json() const;
  static DropCounts from_json(const Json& json);
};

/// Where a dataset lies inside its shard, and where its checksums do.
struct DatasetPlace {
  std::uint64_t offset = 0;  // from the start of the file; 0 for a dataset without rows
  std::uint64_t bytes = 0;
  std::int64_t rows = 0;
  std::uint64_t checksums_offset = 0;  // one uint32 CRC-32C a block
  std::uint32_t checksums_crc32c = 0;  // CRC-32C of those checksums
  bool operator==(const DatasetPlace&) const = default;
};

/// Everything known about a committed unit that follows from its bytes: the same on every machine
/// and every run.
struct UnitRecord {
  std::int64_t unit = 0;
  std::uint64_t bytes = 0;  // of the file
  std::int64_t rows = 0;
  std::string sha256;
  DropCounts dropped;
  std::vector<DatasetPlace> datasets;               // in the order of shard_datasets
  std::vector<std::vector<double>> norm_quantiles;  // one a hook point, at kNormQuantileLevels
  std::vector<Moments> moments;                     // one a hook point; empty in the manifest

  /// `moments` are written if there are any.
  Json to_json(const CacheIdentity& identity) const;
  /// DataError, starting with `where`, unless the rows and the dropped positions are counts that
  /// make up the unit's positions.
  void require_positions(std::int64_t positions, std::string_view where) const;
  /// DataError, starting with `where`, unless the record fits the identity and its file's size.
  static UnitRecord from_json(const Json& json, const CacheIdentity& identity,
                              std::string_view where);
};

}  // namespace thresher::activation_cache
