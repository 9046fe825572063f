#include <fmt/format.h>

#include <array>
#include <cmath>
#include <optional>

#include "activation_cache/shard_file.h"
#include "activation_cache/shard_layout.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/limited_child.h"

namespace thresher::activation_cache {

namespace {

struct Layout {
  UnitRecord record;  // without what follows from the content
  std::vector<std::vector<std::uint32_t>> checksums;
};

Layout read_layout(const std::filesystem::path& path, const CacheIdentity& identity,
                   std::int64_t unit) {
  const UnitRange range = identity.unit_range(unit);
  Layout layout;
  UnitRecord& record = layout.record;
  record.unit = unit;
  record.bytes = thresher::file_size(path);
  const FileDescriptor file = open_for_reading(path);
  const Hdf5Scope scope;
  const LayoutReader reader(path.string(), record.bytes);
  std::array<std::int64_t, 6> attributes{};
  for (std::size_t i = 0; i < attributes.size(); ++i) {
    attributes[i] = reader.attribute(kShardAttributes[i]);
  }
  if (attributes[0] != kFormatVersion || attributes[1] != unit ||
      attributes[2] != range.first_context) {
    throw DataError(fmt::format("{}: version {}, unit {}, first context {}", path.string(),
                                attributes[0], attributes[1], attributes[2]),
                    fmt::format("version {}, unit {}, first context {}", kFormatVersion, unit,
                                range.first_context));
  }
  record.dropped = {attributes[3], attributes[4], attributes[5], 0};
  if (identity.has_held_out_rows()) record.dropped.held_out = reader.attribute(kHeldOutAttribute);
  std::optional<std::int64_t> rows;
  for (const DatasetSpec& spec : shard_datasets(identity)) {
    const LayoutReader::Found data = reader.dataset(spec);
    if (!spec.is_per_context && !rows) rows = data.rows;
    const std::int64_t want_rows = spec.is_per_context ? range.n_contexts : *rows;
    const LayoutReader::Found table =
        reader.dataset({.name = spec.checksum_name(), .type = ElementType::kUint32});
    if (data.rows != want_rows || table.rows != block_count(data.rows, identity.block_rows)) {
      throw DataError(fmt::format("{}: {} has {} rows and {} checksums", path.string(), spec.name,
                                  data.rows, table.rows),
                      fmt::format("{} rows and {} checksums", want_rows,
                                  block_count(want_rows, identity.block_rows)));
    }
    std::vector<std::uint32_t> checksums(static_cast<std::size_t>(table.rows));
    const auto checksum_bytes = std::as_writable_bytes(std::span(checksums));
    if (!checksums.empty()) read_at(file, table.offset, checksum_bytes, path);
    record.datasets.push_back({.offset = data.offset,
                               .bytes = static_cast<std::uint64_t>(data.rows) *
                                        static_cast<std::uint64_t>(spec.row_bytes()),
                               .rows = data.rows,
                               .checksums_offset = table.offset,
                               .checksums_crc32c = crc32c(checksum_bytes)});
    layout.checksums.push_back(std::move(checksums));
  }
  record.rows = rows.value_or(0);
  record.require_positions(range.n_contexts * identity.context_tokens, path.string());
  return layout;
}

double row_norm(std::span<const float> row) {
  double sum = 0;
  for (const float value : row) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum);
}

}  // namespace

void examine_shard(const std::filesystem::path& path, const CacheIdentity& identity,
                   std::int64_t unit) {
  const Hdf5Scope scope;
  rehearse_in_child(path.string(), [&] { read_layout(path, identity, unit); });
}

UnitRecord describe_shard(const std::filesystem::path& path, const CacheIdentity& identity,
                          std::int64_t unit) {
  Layout layout = read_layout(path, identity, unit);
  UnitRecord record = std::move(layout.record);
  const std::vector<DatasetSpec> specs = shard_datasets(identity);
  const FileDescriptor file = open_for_reading(path);
  std::vector<std::byte> block;
  std::vector<float> values;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const auto row_bytes = static_cast<std::size_t>(specs[i].row_bytes());
    const bool is_activation = i < identity.hook_points.size();
    Moments moments(is_activation ? specs[i].columns : 0);
    std::vector<double> norms;
    for (std::size_t b = 0; b < layout.checksums[i].size(); ++b) {
      const std::int64_t first = static_cast<std::int64_t>(b) * identity.block_rows;
      const std::int64_t n = std::min(identity.block_rows, record.datasets[i].rows - first);
      block.resize(static_cast<std::size_t>(n) * row_bytes);
      read_at(file, record.datasets[i].offset + static_cast<std::uint64_t>(first) * row_bytes,
              block, path);
      if (crc32c(block) != layout.checksums[i][b]) {
        throw DataError(fmt::format("{}: {} rows {} to {} do not match their checksum",
                                    path.string(), specs[i].name, first, first + n));
      }
      if (!is_activation) continue;
      values.resize(static_cast<std::size_t>(n * specs[i].columns));
      decode_values(identity.dtype, block, values);
      moments.add_rows(values);
      const auto width = static_cast<std::size_t>(specs[i].columns);
      for (std::size_t row = 0; row < values.size(); row += width) {
        norms.push_back(row_norm(std::span(values).subspan(row, width)));
      }
    }
    if (is_activation) {
      record.moments.push_back(std::move(moments));
      record.norm_quantiles.push_back(norm_quantiles(norms));
    }
  }
  record.sha256 = sha256_file(path);
  return record;
}

}  // namespace thresher::activation_cache
