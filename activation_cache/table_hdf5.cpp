#include <fmt/format.h>
#include <hdf5.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <tuple>
#include <type_traits>
#include <utility>

#include "activation_cache/hdf5_handle.h"
#include "activation_cache/shard_layout.h"
#include "activation_cache/table_file.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "core/limited_child.h"
#include "core/visible_text.h"

namespace thresher::activation_cache {

namespace {

constexpr std::size_t kMostListed = 256;
// A walk over a file takes time that grows with the square of its depth.
constexpr std::ptrdiff_t kMostNested = 64;
constexpr std::int64_t kMostObjects = 1'000'000;
constexpr std::uint64_t kMaxChunkBytes = 1ULL << 30;
// Of 1, 2, 4 and 8 bytes.
constexpr std::array kSigned = {NumberType::kInt8, NumberType::kInt16, NumberType::kInt32,
                                NumberType::kInt64};
constexpr std::array kUnsigned = {NumberType::kUint8, NumberType::kUint16, NumberType::kUint32,
                                  NumberType::kUint64};

/// What a library that a hostile file crashes does, it does in a child of its own first. A file is
/// examined once; another size or time of change makes it another file.
void examine(const std::filesystem::path& path, const std::string& name,
             const std::function<void()>& open) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return;  // opening says why
  const auto key = std::tuple(status.st_dev, status.st_ino, status.st_size, status.st_mtim.tv_sec,
                              status.st_mtim.tv_nsec, name);
  static std::set<std::remove_const_t<decltype(key)>> examined;
  if (examined.contains(key)) return;
  rehearse_in_child(display_path(path), open);
  examined.insert(key);
}

/// A file open for reading, and what its parts are called in messages. Use inside an Hdf5Scope.
class Hdf5Input {
 public:
  explicit Hdf5Input(const std::filesystem::path& path)
      : shown_(display_path(path)),
        file_bytes_(thresher::file_size(path)),  // a missing file says so in plain words
        access_(own(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "set-up")),
        file_(open(path)) {}

  Hdf5Handle own(hid_t id, Hdf5Handle::CloseFunction closer, std::string_view what) const {
    return {id, closer, Hdf5Task::kReading, shown_, what};
  }
  hid_t file() const { return file_.get(); }
  const std::string& shown() const { return shown_; }
  std::uint64_t file_bytes() const { return file_bytes_; }

 private:
  Hdf5Handle open(const std::filesystem::path& path) {
    if (H5Pset_file_locking(access_.get(), 0, 1) < 0) {
      throw_hdf5_error(Hdf5Task::kReading, shown_, "set-up");
    }
    return own(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access_.get()), H5Fclose,
               "opening it as an HDF5 file");
  }

  std::string shown_;
  std::uint64_t file_bytes_;
  Hdf5Handle access_;
  Hdf5Handle file_;
};

std::string named(const std::string& shown, const std::string& name) {
  return fmt::format("{}: {}", shown, Json(name).dump());
}

std::optional<NumberType> number_type(hid_t type) {
  const std::size_t bytes = H5Tget_size(type);
  if (H5Tget_class(type) == H5T_FLOAT) {
    if (bytes == 4) return NumberType::kFloat32;
    if (bytes == 8) return NumberType::kFloat64;
    std::size_t sign = 0, exponent = 0, exponent_bits = 0, mantissa = 0, mantissa_bits = 0;
    if (bytes != 2 ||
        H5Tget_fields(type, &sign, &exponent, &exponent_bits, &mantissa, &mantissa_bits) < 0) {
      return std::nullopt;
    }
    return exponent_bits == 8 ? NumberType::kBfloat16 : NumberType::kFloat16;
  }
  if (H5Tget_class(type) != H5T_INTEGER) return std::nullopt;
  if (!std::has_single_bit(bytes) || bytes > 8) return std::nullopt;
  const auto power = static_cast<std::size_t>(std::countr_zero(bytes));
  return (H5Tget_sign(type) == H5T_SGN_NONE ? kUnsigned : kSigned)[power];
}

/// The type that rows are read as; HDF5 turns bytes round where the file needs it.
Hdf5Handle memory_type(NumberType type, const std::string& where) {
  const auto copy = [&](hid_t native) {
    return Hdf5Handle(H5Tcopy(native), H5Tclose, Hdf5Task::kReading, where, "set-up");
  };
  switch (type) {
    case NumberType::kFloat16:
      return hdf5_element_type(ElementType::kFloat16, Hdf5Task::kReading, where);
    case NumberType::kBfloat16:
      return hdf5_element_type(ElementType::kBfloat16, Hdf5Task::kReading, where);
    case NumberType::kFloat32:
      return copy(H5T_NATIVE_FLOAT);
    case NumberType::kFloat64:
      return copy(H5T_NATIVE_DOUBLE);
    case NumberType::kInt8:
      return copy(H5T_NATIVE_INT8);
    case NumberType::kInt16:
      return copy(H5T_NATIVE_INT16);
    case NumberType::kInt32:
      return copy(H5T_NATIVE_INT32);
    case NumberType::kInt64:
      return copy(H5T_NATIVE_INT64);
    case NumberType::kUint8:
      return copy(H5T_NATIVE_UINT8);
    case NumberType::kUint16:
      return copy(H5T_NATIVE_UINT16);
    case NumberType::kUint32:
      return copy(H5T_NATIVE_UINT32);
    case NumberType::kUint64:
      return copy(H5T_NATIVE_UINT64);
  }
  THRESHER_CHECK(false, "unknown number type");
}

std::vector<std::int64_t> shape_of(const Hdf5Input& input, hid_t dataset) {
  const Hdf5Handle space = input.own(H5Dget_space(dataset), H5Sclose, "reading a dataset");
  std::array<hsize_t, H5S_MAX_RANK> sizes{};
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank < 0 || H5Sget_simple_extent_dims(space.get(), sizes.data(), nullptr) < 0) {
    throw_hdf5_error(Hdf5Task::kReading, input.shown(), "reading a dataset's shape");
  }
  std::vector<std::int64_t> shape;
  for (int i = 0; i < rank; ++i) {
    if (sizes[static_cast<std::size_t>(i)] > (1ULL << 62)) {
      throw DataError(fmt::format("{}: a dataset has {} rows or columns", input.shown(),
                                  sizes[static_cast<std::size_t>(i)]));
    }
    shape.push_back(static_cast<std::int64_t>(sizes[static_cast<std::size_t>(i)]));
  }
  return shape;
}

void check_filters(const std::string& where, hid_t creation) {
  for (int i = 0; i < H5Pget_nfilters(creation); ++i) {
    unsigned flags = 0;
    std::size_t n_values = 0;
    std::array<char, 64> name{};
    const H5Z_filter_t filter =
        H5Pget_filter2(creation, static_cast<unsigned>(i), &flags, &n_values, nullptr,
                       name.size() - 1, name.data(), nullptr);
    if (filter >= 0 && H5Zfilter_avail(filter) > 0) continue;
    throw DataError(fmt::format("{}: it is compressed with {} (filter {}), which is not built in",
                                where, escape_control(name.data()), filter),
                    "no compression, or gzip", "h5repack -f NONE makes an uncompressed copy");
  }
}

/// Datasets may reserve more than was ever written; what is missing would read as zeros.
void check_chunks(const std::string& where, hid_t dataset, hid_t creation,
                  const std::vector<std::int64_t>& shape, std::int64_t item_bytes) {
  std::array<hsize_t, H5S_MAX_RANK> chunk{};
  if (H5Pget_chunk(creation, H5S_MAX_RANK, chunk.data()) != static_cast<int>(shape.size())) {
    throw DataError(fmt::format("{}: its chunks have another shape", where));
  }
  std::uint64_t expected = 1, bytes = static_cast<std::uint64_t>(item_bytes);
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const hsize_t size = std::max<hsize_t>(1, chunk[i]);
    bytes *= std::min<hsize_t>(size, kMaxChunkBytes);
    if (bytes > kMaxChunkBytes) {
      throw DataError(fmt::format("{}: a chunk has more than {} bytes", where, kMaxChunkBytes));
    }
    expected *= (static_cast<hsize_t>(shape[i]) + size - 1) / size;
  }
  hsize_t written = 0;
  const Hdf5Handle space(H5Dget_space(dataset), H5Sclose, Hdf5Task::kReading, where,
                         "counting chunks");
  if (H5Dget_num_chunks(dataset, space.get(), &written) < 0) {
    throw_hdf5_error(Hdf5Task::kReading, where, "counting chunks");
  }
  if (written >= expected) return;
  throw DataError(
      fmt::format("{}: only {} of its {} chunks were ever written", where, written, expected),
      "a dataset with all its values", "cut it to the rows that were written");
}

void check_storage(const Hdf5Input& input, const std::string& where, hid_t dataset,
                   const std::vector<std::int64_t>& shape, std::int64_t item_bytes) {
  const Hdf5Handle creation =
      input.own(H5Dget_create_plist(dataset), H5Pclose, "reading a dataset");
  const H5D_layout_t layout = H5Pget_layout(creation.get());
  if (layout == H5D_VIRTUAL || H5Pget_external_count(creation.get()) != 0) {
    throw DataError(fmt::format("{}: its values lie in other files", where),
                    "a dataset that is stored in its file",
                    "name those files in activations.paths, or copy the values");
  }
  if (layout == H5D_CHUNKED) {
    check_filters(where, creation.get());
    check_chunks(where, dataset, creation.get(), shape, item_bytes);
  } else if (layout == H5D_CONTIGUOUS) {
    std::uint64_t bytes = static_cast<std::uint64_t>(item_bytes);
    bool fits = true;
    for (const std::int64_t size : shape) {
      fits = fits && !__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(size), &bytes);
    }
    const haddr_t offset = H5Dget_offset(dataset);
    if (fits && (bytes == 0 || (offset != HADDR_UNDEF && bytes <= input.file_bytes() &&
                                offset <= input.file_bytes() - bytes))) {
      return;
    }
    throw DataError(fmt::format("{}: {} do not lie inside the file", where, shown_shape(shape)),
                    "a dataset with all its values", "the file was cut off, or never filled");
  }
}

class Hdf5Table final : public TableFile {
 public:
  Hdf5Table(std::string where, NumberType type, std::vector<std::int64_t> shape,
            std::unique_ptr<Hdf5Input> input, Hdf5Handle dataset)
      : TableFile(std::move(where), type, std::move(shape)),
        input_(std::move(input)),
        dataset_(std::make_unique<Hdf5Handle>(std::move(dataset))) {}
  ~Hdf5Table() override {
    const Hdf5Scope scope;
    dataset_.reset();
    input_.reset();
  }

 private:
  void read_rows(std::int64_t first, std::int64_t n, std::span<std::byte> out) const override {
    if (out.empty()) return;
    const Hdf5Scope scope;
    if (is_contiguous()) return decode_rows(first, n, out.data());
    // Chunks and their filters are decoded where a damaged one can crash nothing but a child.
    const SharedBytes decoded(out.size(), where());
    rehearse_in_child(where(), [&] { decode_rows(first, n, decoded.data()); });
    std::memcpy(out.data(), decoded.data(), out.size());
  }

  bool is_contiguous() const {
    const Hdf5Handle creation(H5Dget_create_plist(dataset_->get()), H5Pclose, Hdf5Task::kReading,
                              where(), "reading rows");
    return H5Pget_layout(creation.get()) == H5D_CONTIGUOUS;
  }

  void decode_rows(std::int64_t first, std::int64_t n, void* out) const {
    const auto own = [&](hid_t id, Hdf5Handle::CloseFunction closer) {
      return Hdf5Handle(id, closer, Hdf5Task::kReading, where(), "reading rows");
    };
    const std::array<hsize_t, 2> start = {static_cast<hsize_t>(first), 0};
    const std::array<hsize_t, 2> count = {static_cast<hsize_t>(n), static_cast<hsize_t>(columns())};
    const Hdf5Handle file_space = own(H5Dget_space(dataset_->get()), H5Sclose);
    const Hdf5Handle memory_space =
        own(H5Screate_simple(static_cast<int>(shape().size()), count.data(), nullptr), H5Sclose);
    const Hdf5Handle memory = memory_type(type(), where());
    if (H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(),
                            nullptr) < 0 ||
        H5Dread(dataset_->get(), memory.get(), memory_space.get(), file_space.get(), H5P_DEFAULT,
                out) < 0) {
      throw_hdf5_error(Hdf5Task::kReading, where(), "reading rows");
    }
  }

  std::unique_ptr<Hdf5Input> input_;
  std::unique_ptr<Hdf5Handle> dataset_;
};

/// What a walk over the file finds, in the order of the names.
struct Listing {
  const Hdf5Input* input = nullptr;
  std::vector<TableName> tables;
  std::int64_t n_objects = 0;
  bool is_too_deep = false;
};

herr_t add_dataset(hid_t file, const char* name, const H5O_info_t* info, void* data) {
  auto& listing = *static_cast<Listing*>(data);
  const std::string_view path = name;
  listing.is_too_deep = std::count(path.begin(), path.end(), '/') > kMostNested;
  if (listing.is_too_deep || ++listing.n_objects > kMostObjects) return 1;
  if (info->type != H5O_TYPE_DATASET) return 0;
  const Hdf5Input& input = *listing.input;
  const hid_t opened = H5Dopen2(file, name, H5P_DEFAULT);
  if (opened < 0) return 0;  // one damaged dataset does not hide the others
  const Hdf5Handle dataset = input.own(opened, H5Dclose, "opening a dataset");
  const Hdf5Handle type = input.own(H5Dget_type(opened), H5Tclose, "reading a dataset");
  const std::vector<std::int64_t> shape = shape_of(input, opened);
  const std::optional<NumberType> number = number_type(type.get());
  listing.tables.push_back(
      {name,
       fmt::format("{} {} {}", Json(name).dump(), number ? number_name(*number) : "(no numbers)",
                   shown_shape(shape)),
       number && is_floating(*number) && shape.size() == 2});
  return listing.tables.size() < kMostListed ? 0 : 1;
}

std::vector<TableName> tables_of(const Hdf5Input& input) {
  Listing listing;
  listing.input = &input;
  if (H5Ovisit2(input.file(), H5_INDEX_NAME, H5_ITER_INC, add_dataset, &listing, H5O_INFO_BASIC) <
      0) {
    throw_hdf5_error(Hdf5Task::kReading, input.shown(), "listing its datasets");
  }
  if (listing.is_too_deep || listing.n_objects > kMostObjects) {
    throw DataError(listing.is_too_deep
                        ? fmt::format("{}: its groups are nested deeper than {} levels",
                                      input.shown(), kMostNested)
                        : fmt::format("{}: it holds more than {} groups and datasets",
                                      input.shown(), kMostObjects),
                    "", "activations.datasets names the one to read, without a search");
  }
  return std::move(listing.tables);
}

/// True for a dataset that is reached by hard links alone: others may lead to other files.
bool is_inside(const Hdf5Input& input, const std::string& name) {
  if (name.empty() || name.front() == '/' || name.back() == '/') return false;
  for (std::size_t end = name.find('/');; end = name.find('/', end + 1)) {
    H5L_info_t link;
    const std::string part = name.substr(0, end);
    if (H5Lget_info(input.file(), part.c_str(), &link, H5P_DEFAULT) < 0) {
      H5Eclear2(H5E_DEFAULT);
      return false;
    }
    if (link.type != H5L_TYPE_HARD) {
      throw DataError(fmt::format("{}: it is a link, which may lead to another file",
                                  named(input.shown(), part)),
                      "a dataset in the file itself");
    }
    if (end == std::string::npos) return true;
  }
}

std::unique_ptr<TableFile> open_here(const std::filesystem::path& path, const std::string& name) {
  auto input = std::make_unique<Hdf5Input>(path);
  const std::string where = named(input->shown(), name);
  const bool is_there = name.find('\0') == std::string::npos && is_inside(*input, name);
  const hid_t id = is_there ? H5Dopen2(input->file(), name.c_str(), H5P_DEFAULT) : -1;
  if (id < 0) {
    H5Eclear2(H5E_DEFAULT);
    fail_missing_table(path, name, tables_of(*input));
  }
  Hdf5Handle dataset = input->own(id, H5Dclose, "opening a dataset");
  const Hdf5Handle file_type = input->own(H5Dget_type(id), H5Tclose, "reading a dataset");
  const std::optional<NumberType> type = number_type(file_type.get());
  if (!type) {
    throw DataError(where + ": its elements are no numbers",
                    "float16, bfloat16, float32, float64 or whole numbers");
  }
  std::vector<std::int64_t> shape = shape_of(*input, id);
  check_storage(*input, where, id, shape, static_cast<std::int64_t>(H5Tget_size(file_type.get())));
  return std::make_unique<Hdf5Table>(where, *type, std::move(shape), std::move(input),
                                     std::move(dataset));
}

}  // namespace

std::vector<TableName> list_hdf5_tables(const std::filesystem::path& path) {
  const Hdf5Scope scope;
  const auto list = [&] { return tables_of(Hdf5Input(path)); };
  examine(path, "/", [&] { list(); });
  return list();
}

std::unique_ptr<TableFile> open_hdf5_table(const std::filesystem::path& path,
                                           const std::string& name) {
  const Hdf5Scope scope;
  examine(path, name, [&] { open_here(path, name); });
  return open_here(path, name);
}

}  // namespace thresher::activation_cache
