#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "activation_cache/activation_source.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/json.h"

namespace thresher::activation_cache {

/// Names and constants of a cache folder (docs/cache-format.md). Nothing else knows them.
inline constexpr const char* kFormatName = "thresher-activation-cache";
inline constexpr std::int64_t kFormatVersion = 1;
inline constexpr const char* kIdentityFile = "cache.json";     // written first, never changed
inline constexpr const char* kManifestFile = "MANIFEST.json";  // written last, once
inline constexpr const char* kShardFolder = "shards";
inline constexpr const char* kCommitFolder = "commits";
inline constexpr const char* kTemporaryFolder = ".tmp";  // everything in it may be deleted at start
inline constexpr const char* kActivationGroup = "activations";
inline constexpr const char* kContextDataset = "context";
inline constexpr const char* kPositionDataset = "position";
inline constexpr const char* kDocumentDataset = "document";
inline constexpr const char* kTokenIdsDataset = "contexts/token_ids";
inline constexpr const char* kChecksumGroup = "crc32c";
/// Checksums and the loader work on blocks of about this many bytes of the widest activation
/// dataset.
inline constexpr std::int64_t kBlockBytes = 1 << 20;
/// Tokens of one forward pass of the host model; larger passes fall out of the processor's cache.
inline constexpr std::int64_t kForwardTokens = 4096;
/// Quantiles of the row norms that every unit records.
inline constexpr std::array<double, 9> kNormQuantileLevels = {0,    0.01, 0.05, 0.25, 0.5,
                                                              0.75, 0.95, 0.99, 1};

/// Crash points on the way of a unit into the cache, for the kill tests (core/files.h, failpoint).
namespace failpoints {
inline constexpr const char* kIdentityWritten = "cache.identity.written";
inline constexpr const char* kShardCreated = "cache.shard.created";
inline constexpr const char* kShardHalfWritten = "cache.shard.half_written";
inline constexpr const char* kShardWritten = "cache.shard.written";
inline constexpr const char* kShardHashed = "cache.shard.hashed";
inline constexpr const char* kShardSynced = "cache.shard.synced";
inline constexpr const char* kShardRenamed = "cache.shard.renamed";
inline constexpr const char* kShardFolderSynced = "cache.shard.folder_synced";
inline constexpr const char* kCommitAppended = "cache.commit.appended";
inline constexpr const char* kCommitSynced = "cache.commit.synced";
inline constexpr const char* kTemporaryDeleted = "cache.recovery.temporary_deleted";
inline constexpr const char* kShardAdopted = "cache.recovery.adopted";
inline constexpr const char* kAllCommitted = "cache.all_committed";
inline constexpr const char* kManifestWritten = "cache.manifest.written";
inline constexpr std::array<const char*, 14> kAll = {
    kIdentityWritten,  kShardCreated, kShardHalfWritten,  kShardWritten,   kShardHashed,
    kShardSynced,      kShardRenamed, kShardFolderSynced, kCommitAppended, kCommitSynced,
    kTemporaryDeleted, kShardAdopted, kAllCommitted,      kManifestWritten};
}  // namespace failpoints

/// Contexts of one work unit.
struct UnitRange {
  std::int64_t first_context = 0;
  std::int64_t n_contexts = 0;
};

/// What a cache is: everything that decides the bytes of its shards, and nothing else. Stored as
/// cache.json.
struct CacheIdentity {
  std::string host_family;
  std::string host_fingerprint;
  Dtype host_dtype = Dtype::kFloat32;  // of the forward pass; written where it is not float32
  Device host_device = Device::kCpu;   // of the forward pass; written where it is not the CPU
  std::string tokenizer_fingerprint;
  Json corpus = Json::object();
  std::vector<HookPointWidth> hook_points;
  Dtype dtype = Dtype::kBfloat16;
  std::int64_t context_tokens = 0;
  std::int64_t n_contexts = 0;
  std::int64_t unit_tokens = 0;
  std::int64_t drop_first_positions = 0;
  bool drop_special_tokens = false;
  double drop_norm_above = 0;  // 0: off
  std::uint64_t seed = 0;
  std::int64_t forward_contexts = 0;  // contexts of one forward pass
  std::int64_t block_rows = 0;        // rows of a block, of every dataset
  std::vector<double> norm_limits;    // one a hook point; empty when the rule is off

  std::int64_t unit_contexts() const { return unit_tokens / context_tokens; }
  /// Own activations: held-out rows stand between the others and are dropped.
  bool has_held_out_rows() const;
  std::int64_t n_units() const;
  UnitRange unit_range(std::int64_t unit) const;

  Json to_json() const;
  /// DataError on anything that is not a sound identity of a known version; `where` starts the
  /// message.
  static CacheIdentity from_json(const Json& json, std::string_view where);
};

/// Rows per block for these hook points: about kBlockBytes of the widest, at least one.
std::int64_t default_block_rows(const std::vector<HookPointWidth>& hook_points, Dtype dtype);

/// Reads DIR/cache.json. ConfigError where there is none.
CacheIdentity read_identity(const std::filesystem::path& dir);
void write_identity(const std::filesystem::path& dir, const CacheIdentity& identity);
/// ConfigError naming the first field in which the cache differs from what is wanted. Norm limits
/// are left out: they follow from the rest.
void check_same_identity(const std::filesystem::path& dir, const Json& found,
                         const CacheIdentity& wanted);

/// Element types inside a shard.
enum class ElementType { kFloat32, kFloat16, kBfloat16, kInt32, kUint32 };

/// One dataset of a shard, as the identity demands it.
struct DatasetSpec {
  std::string name;
  ElementType type = ElementType::kInt32;
  std::int64_t columns = 1;
  bool is_table = false;        // two dimensions [rows, columns] instead of [rows]
  bool is_per_context = false;  // one row a context instead of one row a kept position

  std::int64_t row_bytes() const;
  std::string checksum_name() const;  // dataset with one CRC-32C a block
};

/// The datasets of every shard of a cache, in file order: one a hook point, then context, position,
/// document and contexts/token_ids. The first hook_points.size() are the activations.
std::vector<DatasetSpec> shard_datasets(const CacheIdentity& identity);
std::size_t dataset_index(const std::vector<DatasetSpec>& specs, std::string_view name);

/// "00000042.h5"
std::string shard_file_name(std::int64_t unit);
/// The unit of a shard's file name, or -1.
std::int64_t unit_of_shard_file(std::string_view file_name);
std::filesystem::path shard_path(const std::filesystem::path& dir, std::int64_t unit);
/// "w003.log"
std::string commit_log_name(int rank);

/// Blocks that hold `rows` rows.
inline std::int64_t block_count(std::int64_t rows, std::int64_t block_rows) {
  return (rows + block_rows - 1) / block_rows;
}

}  // namespace thresher::activation_cache
