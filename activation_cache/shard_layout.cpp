#include "activation_cache/shard_layout.h"

#include <fmt/format.h>

#include <array>

#include "core/error.h"

namespace thresher::activation_cache {

namespace {

Hdf5Handle small_float(unsigned exponent_bits, unsigned mantissa_bits, unsigned bias, Hdf5Task task,
                       const std::string& path) {
  Hdf5Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose, task, path, "making a type");
  if (H5Tset_fields(type.get(), 15, mantissa_bits, exponent_bits, 0, mantissa_bits) < 0 ||
      H5Tset_size(type.get(), 2) < 0 || H5Tset_ebias(type.get(), bias) < 0) {
    throw_hdf5_error(task, path, "making a type");
  }
  return type;
}

}  // namespace

Hdf5Handle hdf5_element_type(ElementType type, Hdf5Task task, const std::string& path) {
  switch (type) {
    case ElementType::kFloat16:
      return small_float(5, 10, 15, task, path);
    case ElementType::kBfloat16:
      return small_float(8, 7, 127, task, path);
    case ElementType::kFloat32:
      return {H5Tcopy(H5T_IEEE_F32LE), H5Tclose, task, path, "making a type"};
    case ElementType::kInt32:
      return {H5Tcopy(H5T_STD_I32LE), H5Tclose, task, path, "making a type"};
    case ElementType::kUint32:
      return {H5Tcopy(H5T_STD_U32LE), H5Tclose, task, path, "making a type"};
  }
  THRESHER_CHECK(false, "unknown element type");
}

LayoutReader::LayoutReader(const std::string& path, std::uint64_t file_bytes)
    : path_(path),
      file_bytes_(file_bytes),
      access_(own(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "making a property list")),
      file_(open()) {}

std::int64_t LayoutReader::attribute(const char* name) const {
  const Hdf5Handle attribute =
      own(H5Aopen(file_.get(), name, H5P_DEFAULT), H5Aclose, "opening an attribute");
  const Hdf5Handle type = own(H5Aget_type(attribute.get()), H5Tclose, "reading an attribute");
  const Hdf5Handle space = own(H5Aget_space(attribute.get()), H5Sclose, "reading an attribute");
  if (H5Tequal(type.get(), H5T_STD_I64LE) <= 0 ||
      H5Sget_simple_extent_type(space.get()) != H5S_SCALAR) {
    fail(name, "is not one 64-bit integer");
  }
  std::int64_t value = 0;
  if (H5Aread(attribute.get(), H5T_NATIVE_INT64, &value) < 0) {
    throw_hdf5_error(Hdf5Task::kReading, path_, "reading an attribute");
  }
  return value;
}

LayoutReader::Found LayoutReader::dataset(const DatasetSpec& spec) const {
  require_hard_links(spec.name);
  const Hdf5Handle dataset = own(H5Dopen2(file_.get(), spec.name.c_str(), H5P_DEFAULT), H5Dclose,
                                 fmt::format("opening {}", spec.name));
  Found found{checked_rows(dataset.get(), spec), 0};
  if (found.rows == 0) return found;
  const haddr_t offset = H5Dget_offset(dataset.get());
  const auto bytes =
      static_cast<std::uint64_t>(found.rows) * static_cast<std::uint64_t>(spec.row_bytes());
  if (offset == HADDR_UNDEF || offset > file_bytes_ - bytes) {
    fail(spec.name, "does not lie inside the file");
  }
  found.offset = offset;
  return found;
}

std::int64_t LayoutReader::checked_rows(hid_t dataset, const DatasetSpec& spec) const {
  const Hdf5Handle creation = own(H5Dget_create_plist(dataset), H5Pclose, "reading a dataset");
  if (H5Pget_layout(creation.get()) != H5D_CONTIGUOUS ||
      H5Pget_external_count(creation.get()) != 0) {
    fail(spec.name, "is not contiguous in this file");
  }
  const Hdf5Handle type = own(H5Dget_type(dataset), H5Tclose, "reading a dataset");
  const Hdf5Handle want = hdf5_element_type(spec.type, Hdf5Task::kReading, path_);
  if (H5Tequal(type.get(), want.get()) <= 0) fail(spec.name, "has another element type");
  const Hdf5Handle space = own(H5Dget_space(dataset), H5Sclose, "reading a dataset");
  std::array<hsize_t, 2> shape = {0, 1};
  if (H5Sget_simple_extent_ndims(space.get()) != (spec.is_table ? 2 : 1) ||
      H5Sget_simple_extent_dims(space.get(), shape.data(), nullptr) < 0 ||
      static_cast<std::int64_t>(shape[1]) != spec.columns) {
    fail(spec.name, "has another shape");
  }
  if (shape[0] > file_bytes_ / static_cast<std::uint64_t>(spec.row_bytes())) {
    fail(spec.name, "is larger than the file");
  }
  return static_cast<std::int64_t>(shape[0]);
}

Hdf5Handle LayoutReader::own(hid_t id, Hdf5Handle::CloseFunction closer,
                             std::string_view what) const {
  return {id, closer, Hdf5Task::kReading, path_, what};
}

Hdf5Handle LayoutReader::open() const {
  if (H5Pset_file_locking(access_.get(), 0, 1) < 0) {
    throw_hdf5_error(Hdf5Task::kReading, path_, "set-up");
  }
  return own(H5Fopen(path_.c_str(), H5F_ACC_RDONLY, access_.get()), H5Fclose, "opening the file");
}

// An external or soft link could lead anywhere.
void LayoutReader::require_hard_links(const std::string& name) const {
  for (std::size_t end = name.find('/');; end = name.find('/', end + 1)) {
    H5L_info_t link;
    const std::string part = name.substr(0, end);
    if (H5Lget_info(file_.get(), part.c_str(), &link, H5P_DEFAULT) < 0) {
      throw_hdf5_error(Hdf5Task::kReading, path_, fmt::format("looking for {}", part));
    }
    if (link.type != H5L_TYPE_HARD) fail(part, "is not a hard link");
    if (end == std::string::npos) return;
  }
}

void LayoutReader::fail(std::string_view name, std::string_view problem) const {
  throw DataError(fmt::format("{}: {} {}", path_, name, problem));
}

}  // namespace thresher::activation_cache
