#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"

namespace thresher::activation_cache {

/// Element types of the tables that people bring.
enum class NumberType {
  kFloat16,
  kBfloat16,
  kFloat32,
  kFloat64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUint8,
  kUint16,
  kUint32,
  kUint64
};
std::int64_t number_bytes(NumberType type);
std::string_view number_name(NumberType type);  // "float32"
bool is_floating(NumberType type);

/// One table of numbers in a user's file, [rows, columns] row after row, or [rows]: a .npy file, a
/// tensor of a .safetensors file, a dataset of an HDF5 file. Rows are read where they stand, so a
/// file may be far larger than memory. Not thread-safe; several objects may read one file.
class TableFile {
 public:
  virtual ~TableFile() = default;
  TableFile(const TableFile&) = delete;
  /// "acts.npy" or `acts.h5: "layer8"`, with control characters escaped: how messages start.
  const std::string& where() const { return where_; }
  NumberType type() const { return type_; }
  const std::vector<std::int64_t>& shape() const { return shape_; }  // one or two sizes, or others
  std::int64_t rows() const { return shape_.empty() ? 0 : shape_[0]; }
  std::int64_t columns() const { return shape_.size() < 2 ? 1 : shape_[1]; }
  /// Rows [first, first + n) of a floating-point table as float32, n * columns() = out.size(). A
  /// float64 beyond float32 becomes infinite.
  void read_floats(std::int64_t first, std::span<float> out) const;
  /// The same of a table of whole numbers; a uint64 beyond int64 becomes negative.
  void read_integers(std::int64_t first, std::span<std::int64_t> out) const;

 protected:
  TableFile(std::string where, NumberType type, std::vector<std::int64_t> shape);
  /// Rows [first, first + n) as they stand in memory, in native byte order.
  virtual void read_rows(std::int64_t first, std::int64_t n, std::span<std::byte> out) const = 0;

 private:
  std::string where_;
  NumberType type_;
  std::vector<std::int64_t> shape_;
};

/// One table of a file that may hold several, as a listing shows it.
struct TableName {
  std::string name;        // empty for .npy
  std::string shown;       // `"layer8" float32 [100, 64]`
  bool is_matrix = false;  // floating-point, two dimensions
};

/// What kind of file this is, by its ending.
enum class TableFormat { kNpy, kSafetensors, kHdf5, kUnknown };
TableFormat table_format(const std::filesystem::path& path);

/// The tables of a file. DataError for a damaged file and for an HDF5 file of more than 64 levels
/// or a million objects, IoError where the system refuses;
/// ConfigError for a file of another kind (.npy, .safetensors, .h5 and .hdf5 are known).
std::vector<TableName> list_tables(const std::filesystem::path& path);
/// Opens table `name` (ignored for .npy). ConfigError, listing what there is, where there is none
/// of this name; DataError for elements that are no numbers and data that are not all in the file.
std::unique_ptr<TableFile> open_table(const std::filesystem::path& path, const std::string& name);

/// "[100, 64]"
std::string shown_shape(const std::vector<std::int64_t>& shape);

// The two formats that hold several tables.
std::vector<TableName> list_hdf5_tables(const std::filesystem::path& path);
std::unique_ptr<TableFile> open_hdf5_table(const std::filesystem::path& path,
                                           const std::string& name);
/// ConfigError: the file has no table `name`; says what it has.
[[noreturn]] void fail_missing_table(const std::filesystem::path& path, const std::string& name,
                                     const std::vector<TableName>& tables);

}  // namespace thresher::activation_cache
