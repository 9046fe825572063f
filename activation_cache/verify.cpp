#include <fmt/format.h>

#include <system_error>

#include "activation_cache/cache.h"
#include "activation_cache/commit_log.h"
#include "activation_cache/manifest.h"
#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"

namespace thresher::activation_cache {

namespace {

constexpr const char* kMetadata = "metadata";  // bytes of the file that belong to no dataset

class ShardVerifier {
 public:
  ShardVerifier(const std::filesystem::path& dir, const CacheIdentity& identity,
                const UnitRecord& record)
      : path_(shard_path(dir, record.unit)),
        name_(fmt::format("{}/{}", kShardFolder, shard_file_name(record.unit))),
        identity_(identity),
        record_(record) {}

  std::vector<Damage> run() {
    std::error_code missing;
    const std::uintmax_t bytes = std::filesystem::file_size(path_, missing);
    if (missing) {
      add(kMetadata, 0, 0, "the file is missing");
    } else if (bytes != record_.bytes) {
      add(kMetadata, 0, 0, fmt::format("{} bytes, {} are recorded", bytes, record_.bytes));
    } else if (sha256_file(path_) != record_.sha256) {
      locate();
    }
    return std::move(damage_);
  }

 private:
  void locate() {
    const std::vector<DatasetSpec> specs = shard_datasets(identity_);
    const FileDescriptor file = open_for_reading(path_);
    for (std::size_t i = 0; i < specs.size(); ++i) {
      check_dataset(file, specs[i], record_.datasets[i]);
    }
    if (damage_.empty()) add(kMetadata, 0, 0, "the file's SHA-256 differs, all datasets are sound");
  }

  void check_dataset(const FileDescriptor& file, const DatasetSpec& spec,
                     const DatasetPlace& place) {
    const std::int64_t n_blocks = block_count(place.rows, identity_.block_rows);
    std::vector<std::uint32_t> checksums(static_cast<std::size_t>(n_blocks));
    const auto table = std::as_writable_bytes(std::span(checksums));
    read_at(file, place.checksums_offset, table, path_);
    const bool is_table_sound = crc32c(table) == place.checksums_crc32c;
    const std::size_t n_before = damage_.size();
    const auto row_bytes = static_cast<std::uint64_t>(spec.row_bytes());
    std::vector<std::byte> block;
    for (std::int64_t b = 0; b < n_blocks; ++b) {
      const std::int64_t first = b * identity_.block_rows;
      const std::int64_t end = std::min(first + identity_.block_rows, place.rows);
      block.resize(static_cast<std::uint64_t>(end - first) * row_bytes);
      read_at(file, place.offset + static_cast<std::uint64_t>(first) * row_bytes, block, path_);
      if (crc32c(block) == checksums[b]) continue;
      if (is_table_sound) {
        add(spec.name, first, end, "the rows do not match their CRC-32C");
      } else {
        add(spec.checksum_name(), b, b + 1, "the checksum is damaged, or the rows it is for too");
      }
    }
    // Two flips can cancel against the rows but never against the table's own checksum.
    if (!is_table_sound && damage_.size() == n_before) {
      add(spec.checksum_name(), 0, n_blocks, "the checksums do not match their own CRC-32C");
    }
  }

  void add(std::string dataset, std::int64_t first, std::int64_t end, std::string problem) {
    damage_.push_back({name_, std::move(dataset), first, end, std::move(problem)});
  }

  std::filesystem::path path_;
  std::string name_;
  const CacheIdentity& identity_;
  const UnitRecord& record_;
  std::vector<Damage> damage_;
};

std::vector<UnitRecord> recorded_units(const std::filesystem::path& dir,
                                       const CacheIdentity& identity) {
  if (is_cache_complete(dir)) return read_manifest(dir, identity).units;
  std::vector<UnitRecord> units;
  for (auto& [number, unit] : read_committed_units(dir, identity)) {
    units.push_back(std::move(unit.record));
  }
  return units;
}

}  // namespace

std::vector<Damage> verify_cache(const std::filesystem::path& dir) {
  const CacheIdentity identity = read_identity(dir);
  std::vector<Damage> damage;
  for (const UnitRecord& record : recorded_units(dir, identity)) {
    for (Damage& found : ShardVerifier(dir, identity, record).run()) {
      damage.push_back(std::move(found));
    }
  }
  return damage;
}

}  // namespace thresher::activation_cache
