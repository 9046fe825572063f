#include "activation_cache/shard_reader.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/hash.h"
#include "core/inside_folder.h"

namespace thresher::activation_cache {

namespace {

// Below the usual limit of 1,024 descriptors a process, with room for everything else.
constexpr std::size_t kMaxOpenShards = 256;

}  // namespace

ShardReader::ShardReader(std::filesystem::path dir, const CacheIdentity& identity,
                         std::vector<UnitRecord> units)
    : dir_(std::move(dir)),
      block_rows_(identity.block_rows),
      specs_(shard_datasets(identity)),
      units_(std::move(units)) {
  for (const UnitRecord& unit : units_) {
    require_inside_folder(path(unit.unit));
    const std::uint64_t bytes = thresher::file_size(path(unit.unit));
    if (bytes != unit.bytes) {
      throw DataError(fmt::format("{}: the shard has {} bytes", path(unit.unit).string(), bytes),
                      fmt::format("{} bytes, as the manifest says", unit.bytes),
                      "restore the file, or delete it and MANIFEST.json and harvest again");
    }
  }
}

std::int64_t ShardReader::rows_in_block(std::int64_t unit, std::size_t dataset,
                                        std::int64_t block) const {
  const std::int64_t rows = units_.at(unit).datasets.at(dataset).rows;
  THRESHER_CHECK(block >= 0 && block < block_count(rows, block_rows_), "block out of range");
  return std::min(block_rows_, rows - block * block_rows_);
}

std::shared_ptr<FileDescriptor> ShardReader::open_shard(std::int64_t unit) {
  const std::lock_guard lock(mutex_);
  if (const auto found = open_.find(unit); found != open_.end()) return found->second;
  if (open_.size() >= kMaxOpenShards)
    open_.clear();  // files in use stay open until their readers are done
  auto file = std::make_shared<FileDescriptor>(open_for_reading(path(unit)));
  open_.emplace(unit, file);
  return file;
}

bool ShardReader::needs_check(std::int64_t unit, std::size_t dataset, std::int64_t block,
                              const FileDescriptor& file, std::uint32_t& expected) {
  const std::lock_guard lock(mutex_);
  Checksums& known = checksums_[{unit, dataset}];
  if (known.values.empty()) {
    const DatasetPlace& place = units_[unit].datasets[dataset];
    std::vector<std::uint32_t> values(
        static_cast<std::size_t>(block_count(place.rows, block_rows_)));
    const auto bytes = std::as_writable_bytes(std::span(values));
    read_at(file, place.checksums_offset, bytes, path(unit));
    if (crc32c(bytes) != place.checksums_crc32c) {
      throw DataError(
          fmt::format("{}: {} is damaged", path(unit).string(), specs_[dataset].checksum_name()),
          "", "`thresher cache verify` lists all damage");
    }
    known.is_checked.resize(values.size());
    known.values = std::move(values);
  }
  expected = known.values[block];
  return !known.is_checked[block];
}

void ShardReader::read_block(std::int64_t unit, std::size_t dataset, std::int64_t block,
                             std::span<std::byte> out) {
  const auto row_bytes = static_cast<std::uint64_t>(specs_.at(dataset).row_bytes());
  const std::int64_t rows = rows_in_block(unit, dataset, block);
  THRESHER_CHECK(out.size() == static_cast<std::uint64_t>(rows) * row_bytes, "one whole block");
  const std::shared_ptr<FileDescriptor> file = open_shard(unit);
  const std::int64_t first_row = block * block_rows_;
  read_at(*file,
          units_[unit].datasets[dataset].offset + static_cast<std::uint64_t>(first_row) * row_bytes,
          out, path(unit));
  std::uint32_t expected = 0;
  if (!needs_check(unit, dataset, block, *file, expected)) return;
  if (const std::uint32_t found = crc32c(out); found != expected) {
    throw DataError(
        fmt::format("{}: {} rows {} to {} are damaged: CRC-32C {:08x}", path(unit).string(),
                    specs_[dataset].name, first_row, first_row + rows, found),
        fmt::format("{:08x}", expected), "`thresher cache verify` lists all damage");
  }
  const std::lock_guard lock(mutex_);
  checksums_[{unit, dataset}].is_checked[block] = true;
}

}  // namespace thresher::activation_cache
