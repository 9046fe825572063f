#include <fmt/format.h>
#include <hdf5.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <system_error>

#include "activation_cache/shard_file.h"
#include "activation_cache/shard_layout.h"
#include "core/error.h"
#include "core/file_calls.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/system_error.h"

namespace thresher::activation_cache {

namespace {

// Large datasets start on a page so that readers may bypass the page cache.
constexpr hsize_t kAlignmentThreshold = 64 << 10;
constexpr hsize_t kAlignment = 4096;

struct PlacedDataset {
  std::uint64_t offset = 0;
  std::uint64_t checksums_offset = 0;
};

/// Lays out one new file. Everything that HDF5 would date, fill or cache is switched off.
class LayoutWriter {
 public:
  explicit LayoutWriter(const std::string& path)
      : path_(path),
        creation_(own(H5Pcreate(H5P_FILE_CREATE), H5Pclose, "making a property list")),
        access_(own(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "making a property list")),
        link_(own(H5Pcreate(H5P_LINK_CREATE), H5Pclose, "making a property list")),
        dataset_(own(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "making a property list")),
        group_(own(H5Pcreate(H5P_GROUP_CREATE), H5Pclose, "making a property list")),
        file_(create()) {}

  void add_group(const std::string& name) {
    own(H5Gcreate2(file_.get(), name.c_str(), link_.get(), group_.get(), H5P_DEFAULT), H5Gclose,
        "creating a group");
  }

  void add_attribute(const char* name, std::int64_t value) {
    const Hdf5Handle space = own(H5Screate(H5S_SCALAR), H5Sclose, "creating an attribute");
    const Hdf5Handle attribute =
        own(H5Acreate2(file_.get(), name, H5T_STD_I64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT),
            H5Aclose, "creating an attribute");
    check(H5Awrite(attribute.get(), H5T_NATIVE_INT64, &value), "writing an attribute");
  }

  /// Returns where the dataset's bytes will stand (0 when it has none).
  std::uint64_t add_dataset(const DatasetSpec& spec, std::int64_t rows) {
    const std::array<hsize_t, 2> shape = {static_cast<hsize_t>(rows),
                                          static_cast<hsize_t>(spec.columns)};
    const Hdf5Handle space = own(H5Screate_simple(spec.is_table ? 2 : 1, shape.data(), nullptr),
                                 H5Sclose, "creating a dataset");
    const Hdf5Handle type = hdf5_element_type(spec.type, Hdf5Task::kWriting, path_);
    const Hdf5Handle dataset =
        own(H5Dcreate2(file_.get(), spec.name.c_str(), type.get(), space.get(), link_.get(),
                       dataset_.get(), H5P_DEFAULT),
            H5Dclose, "creating a dataset");
    if (rows == 0) return 0;
    const haddr_t offset = H5Dget_offset(dataset.get());
    THRESHER_CHECK(offset != HADDR_UNDEF, "early allocation gives every dataset its place");
    return offset;
  }

  void close() { check(file_.close() ? 0 : -1, "closing the file"); }

 private:
  Hdf5Handle own(hid_t id, Hdf5Handle::CloseFunction closer, std::string_view what) const {
    return {id, closer, Hdf5Task::kWriting, path_, what};
  }
  void check(herr_t result, std::string_view what) const {
    if (result < 0) throw_hdf5_error(Hdf5Task::kWriting, path_, what);
  }
  Hdf5Handle create() {
    // 1.10's newest format has checksums on all metadata; a fixed version keeps the bytes the same
    // with later libraries.
    check(H5Pset_libver_bounds(access_.get(), H5F_LIBVER_V110, H5F_LIBVER_V110), "set-up");
    check(H5Pset_alignment(access_.get(), kAlignmentThreshold, kAlignment), "set-up");
    check(H5Pset_file_locking(access_.get(), 0, 1), "set-up");
    check(H5Pset_obj_track_times(creation_.get(), 0), "set-up");
    check(H5Pset_obj_track_times(group_.get(), 0), "set-up");
    check(H5Pset_obj_track_times(dataset_.get(), 0), "set-up");
    check(H5Pset_layout(dataset_.get(), H5D_CONTIGUOUS), "set-up");
    check(H5Pset_alloc_time(dataset_.get(), H5D_ALLOC_TIME_EARLY), "set-up");
    check(H5Pset_fill_time(dataset_.get(), H5D_FILL_TIME_NEVER), "set-up");
    return own(H5Fcreate(path_.c_str(), H5F_ACC_TRUNC, creation_.get(), access_.get()), H5Fclose,
               "creating the file");
  }

  std::string path_;
  Hdf5Handle creation_, access_, link_, dataset_, group_;
  Hdf5Handle file_;
};

std::vector<PlacedDataset> lay_out(const std::string& path, const CacheIdentity& identity,
                                   const std::vector<DatasetSpec>& specs,
                                   const std::vector<std::int64_t>& n_rows,
                                   const ShardContent& content) {
  const Hdf5Scope scope;
  LayoutWriter writer(path);
  const std::array<std::int64_t, 6> attributes = {kFormatVersion,
                                                  content.unit,
                                                  identity.unit_range(content.unit).first_context,
                                                  content.dropped.first,
                                                  content.dropped.special,
                                                  content.dropped.norm};
  for (std::size_t i = 0; i < attributes.size(); ++i) {
    writer.add_attribute(kShardAttributes[i], attributes[i]);
  }
  if (identity.has_held_out_rows()) {
    writer.add_attribute(kHeldOutAttribute, content.dropped.held_out);
  }
  const std::string checksums = kChecksumGroup;
  for (const std::string& group :
       {std::string(kActivationGroup), std::string("contexts"), checksums,
        checksums + "/" + kActivationGroup, checksums + "/contexts"}) {
    writer.add_group(group);
  }
  std::vector<PlacedDataset> places;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    places.push_back({.offset = writer.add_dataset(specs[i], n_rows[i])});
  }
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const DatasetSpec table{.name = specs[i].checksum_name(), .type = ElementType::kUint32};
    places[i].checksums_offset =
        writer.add_dataset(table, block_count(n_rows[i], identity.block_rows));
  }
  writer.close();
  return places;
}

/// Copies rows [first, first + n) of a dataset, in file order, to `out`.
using RowSource = std::function<void(std::int64_t first, std::int64_t n, std::byte* out)>;

std::vector<RowSource> row_sources(const CacheIdentity& identity,
                                   const std::vector<DatasetSpec>& specs,
                                   const ShardContent& content) {
  const std::int64_t first_context = identity.unit_range(content.unit).first_context;
  std::vector<RowSource> sources;
  for (std::size_t hook = 0; hook < identity.hook_points.size(); ++hook) {
    const auto width = static_cast<std::size_t>(specs[hook].row_bytes());
    sources.push_back([&content, hook, width](std::int64_t first, std::int64_t n, std::byte* out) {
      for (std::int64_t i = 0; i < n; ++i) {
        const auto row = static_cast<std::size_t>(content.rows[first + i]);
        std::memcpy(out + i * width, content.activations[hook].data() + row * width, width);
      }
    });
  }
  const auto add_label = [&](auto label) {
    sources.push_back([&content, label](std::int64_t first, std::int64_t n, std::byte* out) {
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int32_t value = label(content.rows[first + i]);
        std::memcpy(out + i * sizeof(value), &value, sizeof(value));
      }
    });
  };
  const std::int64_t tokens = identity.context_tokens;
  add_label(
      [=](std::int64_t row) { return static_cast<std::int32_t>(first_context + row / tokens); });
  add_label([=](std::int64_t row) { return static_cast<std::int32_t>(row % tokens); });
  add_label([&content](std::int64_t row) { return content.documents[row]; });
  sources.push_back([&content, tokens](std::int64_t first, std::int64_t n, std::byte* out) {
    const auto ids = content.token_ids.subspan(first * tokens, n * tokens);
    std::memcpy(out, ids.data(), ids.size_bytes());
  });
  return sources;
}

void write_at(const FileDescriptor& file, std::uint64_t offset, std::span<const std::byte> bytes,
              const std::filesystem::path& path) {
  if (::lseek(file.get(), static_cast<off_t>(offset), SEEK_SET) < 0) {
    throw IoError(
        fmt::format("{}: cannot seek: {}", path.string(), std::generic_category().message(errno)));
  }
  write_all(file, bytes, path);
}

}  // namespace

void write_shard(const std::filesystem::path& path, const CacheIdentity& identity,
                 const ShardContent& content) {
  const std::vector<DatasetSpec> specs = shard_datasets(identity);
  const UnitRange range = identity.unit_range(content.unit);
  THRESHER_CHECK(content.activations.size() == identity.hook_points.size(), "every hook point");
  THRESHER_CHECK(static_cast<std::int64_t>(content.token_ids.size()) ==
                     range.n_contexts * identity.context_tokens,
                 "whole contexts");
  std::vector<std::int64_t> n_rows;
  for (const DatasetSpec& spec : specs) {
    n_rows.push_back(spec.is_per_context ? range.n_contexts
                                         : static_cast<std::int64_t>(content.rows.size()));
  }
  std::vector<PlacedDataset> places;
  const auto write = [&] { places = lay_out(path.string(), identity, specs, n_rows, content); };
  if (file_calls::write_by_library(path, write) != 0) throw_system_error(path, "create", errno);
  failpoint(failpoints::kShardCreated);

  const FileDescriptor file = open_for_overwriting(path);
  const std::vector<RowSource> sources = row_sources(identity, specs, content);
  std::vector<std::byte> block;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (n_rows[i] == 0) continue;
    const auto row_bytes = static_cast<std::size_t>(specs[i].row_bytes());
    std::vector<std::uint32_t> checksums;
    for (std::int64_t first = 0; first < n_rows[i]; first += identity.block_rows) {
      const std::int64_t n = std::min(identity.block_rows, n_rows[i] - first);
      block.resize(static_cast<std::size_t>(n) * row_bytes);
      sources[i](first, n, block.data());
      checksums.push_back(crc32c(block));
      write_at(file, places[i].offset + static_cast<std::uint64_t>(first) * row_bytes, block, path);
    }
    write_at(file, places[i].checksums_offset, std::as_bytes(std::span(checksums)), path);
    if (i == 0) failpoint(failpoints::kShardHalfWritten);
  }
  failpoint(failpoints::kShardWritten);
}

}  // namespace thresher::activation_cache
