#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "activation_cache/cache_format.h"
#include "activation_cache/shard_file.h"
#include "core/dtype.h"
#include "tests/core/scratch_folder.h"

namespace thresher::activation_cache::testing {

using thresher::testing::first_line_of;
using thresher::testing::ScratchFolder;

/// 40 contexts of 16 tokens in units of 8 contexts, blocks of 7 rows, two hook points of 12 and 5
/// dimensions. The first position of every context is dropped: 5 units of 120 rows.
CacheIdentity small_identity(Dtype dtype = Dtype::kBfloat16);

/// The value at a position, as the host model would give it.
float value_at(std::size_t hook, std::int64_t context, std::int64_t position, std::int64_t d);
/// The same after a trip through the cache's dtype.
float stored_value_at(Dtype dtype, std::size_t hook, std::int64_t context, std::int64_t position,
                      std::int64_t d);
std::int32_t token_id_at(std::int64_t context, std::int64_t position);
std::int32_t document_at(std::int64_t context);

/// Owns what a ShardContent points to.
struct UnitContent {
  std::vector<std::vector<std::byte>> encoded;
  std::vector<std::int32_t> token_ids, documents;
  ShardContent content;
};
/// All positions but the first of every context, in shuffled order.
UnitContent unit_content(const CacheIdentity& identity, std::int64_t unit);

/// Publishes the units given (all if none are) as rank `rank` would, with cache.json and, if
/// complete, the manifest.
void write_cache(const std::filesystem::path& dir, const CacheIdentity& identity,
                 const std::vector<std::int64_t>& units = {}, int rank = 0);

/// Path below `dir` -> bytes, of everything a cache promises to be the same: shards and
/// MANIFEST.json.
std::map<std::string, std::string> promised_bytes(const std::filesystem::path& dir);
void flip_bit(const std::filesystem::path& file, std::uint64_t bit);
void append_bytes(const std::filesystem::path& file, const std::string& bytes);
std::string read_bytes(const std::filesystem::path& file);

}  // namespace thresher::activation_cache::testing
