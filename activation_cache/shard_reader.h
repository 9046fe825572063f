#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "activation_cache/cache_format.h"
#include "activation_cache/unit_record.h"
#include "core/files.h"

namespace thresher::activation_cache {

/// Reads blocks of committed shards by pread at recorded offsets, without libhdf5. A block is
/// compared with its CRC-32C the first time it is read; DataError names file, dataset and rows.
/// Safe to use from several threads.
class ShardReader {
 public:
  /// IoError or DataError if a shard is missing or has another size than recorded.
  ShardReader(std::filesystem::path dir, const CacheIdentity& identity,
              std::vector<UnitRecord> units);

  const std::vector<DatasetSpec>& datasets() const { return specs_; }
  const std::vector<UnitRecord>& units() const { return units_; }
  /// Fills `out` with the rows of block `block` of a dataset, whole; its size must be the block's.
  void read_block(std::int64_t unit, std::size_t dataset, std::int64_t block,
                  std::span<std::byte> out);
  std::int64_t rows_in_block(std::int64_t unit, std::size_t dataset, std::int64_t block) const;

 private:
  struct Checksums {
    std::vector<std::uint32_t> values;
    std::vector<bool> is_checked;
  };
  std::shared_ptr<FileDescriptor> open_shard(std::int64_t unit);
  /// The block's checksum if it was not compared yet.
  bool needs_check(std::int64_t unit, std::size_t dataset, std::int64_t block,
                   const FileDescriptor& file, std::uint32_t& expected);
  std::filesystem::path path(std::int64_t unit) const { return shard_path(dir_, unit); }

  std::filesystem::path dir_;
  std::int64_t block_rows_;
  std::vector<DatasetSpec> specs_;
  std::vector<UnitRecord> units_;
  std::mutex mutex_;
  std::map<std::int64_t, std::shared_ptr<FileDescriptor>> open_;
  std::map<std::pair<std::int64_t, std::size_t>, Checksums> checksums_;
};

}  // namespace thresher::activation_cache
