#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "activation_cache/cache_format.h"
#include "activation_cache/hdf5_handle.h"

namespace thresher::activation_cache {

/// The HDF5 type of an element. The 16-bit floats are true floating-point types, so that any HDF5
/// program reads values.
Hdf5Handle hdf5_element_type(ElementType type, Hdf5Task task, const std::string& path);

/// Attributes of a shard's root group: what cannot be computed from its datasets.
inline constexpr const char* kShardAttributes[] = {
    "format_version", "unit", "first_context", "dropped_first", "dropped_special", "dropped_norm"};
/// One more where the cache is of own activations.
inline constexpr const char* kHeldOutAttribute = "dropped_held_out";

/// Reads the layout of a shard. The file may have been left by a crash, so nothing is taken on
/// trust. DataError, or IoError when the system refuses. Use inside an Hdf5Scope.
class LayoutReader {
 public:
  LayoutReader(const std::string& path, std::uint64_t file_bytes);
  std::int64_t attribute(const char* name) const;

  struct Found {
    std::int64_t rows = 0;
    std::uint64_t offset = 0;
  };
  /// Demands type, columns, contiguous layout, and a place inside the file.
  Found dataset(const DatasetSpec& spec) const;

 private:
  Hdf5Handle own(hid_t id, Hdf5Handle::CloseFunction closer, std::string_view what) const;
  Hdf5Handle open() const;
  void require_hard_links(const std::string& name) const;
  std::int64_t checked_rows(hid_t dataset, const DatasetSpec& spec) const;
  [[noreturn]] void fail(std::string_view name, std::string_view problem) const;

  std::string path_;
  std::uint64_t file_bytes_;
  Hdf5Handle access_;
  Hdf5Handle file_;
};

}  // namespace thresher::activation_cache
