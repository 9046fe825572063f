#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "activation_cache/cache_format.h"
#include "activation_cache/unit_record.h"

namespace thresher::activation_cache {

/// One unit on its way into a shard. Spans stay the caller's. Activations hold all positions of the
/// unit; only those in `rows` are written, in that order.
struct ShardContent {
  std::int64_t unit = 0;
  std::vector<std::span<const std::byte>> activations;  // one a hook point: [positions, row bytes]
  std::vector<std::int64_t> rows;                       // positions of the unit, in file order
  std::span<const std::int32_t> token_ids;              // [unit contexts, context_tokens]
  std::span<const std::int32_t> documents;              // [unit contexts, context_tokens]
  DropCounts dropped;
};

/// Writes a shard to `path`, which it replaces: an HDF5 file whose bytes depend on the arguments
/// alone. HDF5 lays the file out; rows are then written at the offsets it gave. Not synced.
/// IoError, "disk full" included.
void write_shard(const std::filesystem::path& path, const CacheIdentity& identity,
                 const ShardContent& content);

/// Reads a shard that no record describes yet: opens it with HDF5, demands the layout of the
/// identity, compares every block with its checksum, and returns its record with moments. DataError
/// when anything is not as it must be.
UnitRecord describe_shard(const std::filesystem::path& path, const CacheIdentity& identity,
                          std::int64_t unit);

/// The same layout check in a child process (core/limited_child.h), for a file that somebody else
/// may have put there. Nothing is returned; describe_shard comes next.
void examine_shard(const std::filesystem::path& path, const CacheIdentity& identity,
                   std::int64_t unit);

}  // namespace thresher::activation_cache
