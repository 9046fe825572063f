#include "activation_cache/table_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "core/npy.h"
#include "core/safetensors.h"
#include "core/visible_text.h"

namespace thresher::activation_cache {

namespace {

struct NumberFacts {
  std::string_view name;
  std::string_view safetensors_name;
  std::int64_t bytes;
};
// In the order of NumberType.
constexpr std::array<NumberFacts, 12> kNumbers = {{{"float16", "F16", 2},
                                                   {"bfloat16", "BF16", 2},
                                                   {"float32", "F32", 4},
                                                   {"float64", "F64", 8},
                                                   {"int8", "I8", 1},
                                                   {"int16", "I16", 2},
                                                   {"int32", "I32", 4},
                                                   {"int64", "I64", 8},
                                                   {"uint8", "U8", 1},
                                                   {"uint16", "U16", 2},
                                                   {"uint32", "U32", 4},
                                                   {"uint64", "U64", 8}}};

const NumberFacts& facts(NumberType type) { return kNumbers[static_cast<std::size_t>(type)]; }

std::optional<NumberType> number_of(std::string_view NumberFacts::*field, std::string_view name) {
  for (std::size_t i = 0; i < kNumbers.size(); ++i) {
    if (kNumbers[i].*field == name) return static_cast<NumberType>(i);
  }
  return std::nullopt;
}

template <class Number>
void widen(std::span<const std::byte> bytes, std::span<std::int64_t> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    Number value;
    std::memcpy(&value, bytes.data() + i * sizeof(Number), sizeof(Number));
    out[i] = static_cast<std::int64_t>(value);
  }
}

void narrow(std::span<const std::byte> bytes, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    double value = 0;
    std::memcpy(&value, bytes.data() + i * sizeof(value), sizeof(value));
    out[i] = static_cast<float>(value);
  }
}

class NpyTable final : public TableFile {
 public:
  NpyTable(const std::filesystem::path& path, NpyFile file, NumberType type)
      : TableFile(display_path(path), type, file.header().shape), file_(std::move(file)) {}

 private:
  void read_rows(std::int64_t first, std::int64_t, std::span<std::byte> out) const override {
    file_.read(static_cast<std::uint64_t>(first * columns() * number_bytes(type())), out);
  }
  NpyFile file_;
};

std::unique_ptr<TableFile> open_npy_table(const std::filesystem::path& path) {
  NpyFile file(path);
  const std::string name = file.header().dtype_name();
  const std::optional<NumberType> type = number_of(&NumberFacts::name, name);
  if (!type) {
    throw DataError(fmt::format("{}: elements of type {} cannot be read", display_path(path), name),
                    "numbers");
  }
  return std::make_unique<NpyTable>(path, std::move(file), *type);
}

std::string named(const std::filesystem::path& path, const std::string& name) {
  return fmt::format("{}: {}", display_path(path), Json(name).dump());
}

class SafetensorsTable final : public TableFile {
 public:
  SafetensorsTable(const std::filesystem::path& path, SafetensorsFile file,
                   const SafetensorsEntry& entry, NumberType type)
      : TableFile(named(path, entry.name), type, entry.shape),
        file_(std::move(file)),
        entry_(entry) {}

 private:
  void read_rows(std::int64_t first, std::int64_t, std::span<std::byte> out) const override {
    file_.read_part(entry_, static_cast<std::uint64_t>(first * columns() * number_bytes(type())),
                    out);
  }
  SafetensorsFile file_;
  SafetensorsEntry entry_;
};

std::vector<TableName> list_safetensors(const std::filesystem::path& path) {
  std::vector<TableName> names;
  const SafetensorsFile file(path);
  for (const SafetensorsEntry& entry : file.entries()) {
    const auto type = number_of(&NumberFacts::safetensors_name, entry.dtype);
    names.push_back({entry.name,
                     fmt::format("{} {} {}", Json(entry.name).dump(),
                                 type ? number_name(*type) : std::string_view(entry.dtype),
                                 shown_shape(entry.shape)),
                     type && is_floating(*type) && entry.shape.size() == 2});
  }
  return names;
}

std::unique_ptr<TableFile> open_safetensors_table(const std::filesystem::path& path,
                                                  const std::string& name) {
  SafetensorsFile file(path);
  const SafetensorsEntry* found = file.find(name);
  if (found == nullptr) fail_missing_table(path, name, list_safetensors(path));
  const SafetensorsEntry entry = *found;
  const auto type = number_of(&NumberFacts::safetensors_name, entry.dtype);
  if (!type) {
    throw DataError(
        fmt::format("{}: elements of type {} cannot be read", named(path, name), entry.dtype),
        "F16, BF16, F32, F64 or whole numbers");
  }
  return std::make_unique<SafetensorsTable>(path, std::move(file), entry, *type);
}

[[noreturn]] void fail_format(const std::filesystem::path& path) {
  throw ConfigError(fmt::format("{}: a file of this kind cannot be read", display_path(path)),
                    "a name that ends in .npy, .safetensors, .h5 or .hdf5",
                    "torch.save files: save_file({'activations': tensor}, 'acts.safetensors') of "
                    "safetensors.torch");
}

}  // namespace

std::int64_t number_bytes(NumberType type) { return facts(type).bytes; }
std::string_view number_name(NumberType type) { return facts(type).name; }
bool is_floating(NumberType type) { return type <= NumberType::kFloat64; }

std::string shown_shape(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

TableFile::TableFile(std::string where, NumberType type, std::vector<std::int64_t> shape)
    : where_(std::move(where)), type_(type), shape_(std::move(shape)) {}

void TableFile::read_floats(std::int64_t first, std::span<float> out) const {
  THRESHER_CHECK(is_floating(type_), where_ + " holds whole numbers");
  const auto n = static_cast<std::int64_t>(out.size()) / columns();
  if (type_ == NumberType::kFloat32) {
    read_rows(first, n, std::as_writable_bytes(out));
    return;
  }
  std::vector<std::byte> bytes(out.size() * static_cast<std::size_t>(number_bytes(type_)));
  read_rows(first, n, bytes);
  if (type_ == NumberType::kFloat64) {
    narrow(bytes, out);
  } else {
    decode_values(type_ == NumberType::kFloat16 ? Dtype::kFloat16 : Dtype::kBfloat16, bytes, out);
  }
}

void TableFile::read_integers(std::int64_t first, std::span<std::int64_t> out) const {
  std::vector<std::byte> bytes(out.size() * static_cast<std::size_t>(number_bytes(type_)));
  read_rows(first, static_cast<std::int64_t>(out.size()) / columns(), bytes);
  switch (type_) {
    case NumberType::kInt8:
      return widen<std::int8_t>(bytes, out);
    case NumberType::kInt16:
      return widen<std::int16_t>(bytes, out);
    case NumberType::kInt32:
      return widen<std::int32_t>(bytes, out);
    case NumberType::kInt64:
      return widen<std::int64_t>(bytes, out);
    case NumberType::kUint8:
      return widen<std::uint8_t>(bytes, out);
    case NumberType::kUint16:
      return widen<std::uint16_t>(bytes, out);
    case NumberType::kUint32:
      return widen<std::uint32_t>(bytes, out);
    case NumberType::kUint64:
      return widen<std::uint64_t>(bytes, out);
    default:
      THRESHER_CHECK(false, where_ + " holds floating-point numbers");
  }
}

TableFormat table_format(const std::filesystem::path& path) {
  const std::string ending = path.extension().string();
  if (ending == ".npy") return TableFormat::kNpy;
  if (ending == ".safetensors") return TableFormat::kSafetensors;
  if (ending == ".h5" || ending == ".hdf5") return TableFormat::kHdf5;
  return TableFormat::kUnknown;
}

std::vector<TableName> list_tables(const std::filesystem::path& path) {
  switch (table_format(path)) {
    case TableFormat::kNpy: {
      const NpyHeader header = NpyFile(path).header();
      return {{"", fmt::format("{} {}", header.dtype_name(), shown_shape(header.shape)),
               header.kind == 'f' && header.shape.size() == 2}};
    }
    case TableFormat::kSafetensors:
      return list_safetensors(path);
    case TableFormat::kHdf5:
      return list_hdf5_tables(path);
    case TableFormat::kUnknown:
      break;
  }
  fail_format(path);
}

std::unique_ptr<TableFile> open_table(const std::filesystem::path& path, const std::string& name) {
  switch (table_format(path)) {
    case TableFormat::kNpy:
      return open_npy_table(path);
    case TableFormat::kSafetensors:
      return open_safetensors_table(path, name);
    case TableFormat::kHdf5:
      return open_hdf5_table(path, name);
    case TableFormat::kUnknown:
      break;
  }
  fail_format(path);
}

void fail_missing_table(const std::filesystem::path& path, const std::string& name,
                        const std::vector<TableName>& tables) {
  constexpr std::size_t kMost = 12;
  std::vector<std::string> shown;
  for (std::size_t i = 0; i < std::min(tables.size(), kMost); ++i) {
    shown.push_back(tables[i].shown);
  }
  std::string hint = "the file holds ";
  hint += shown.empty() ? "no table of numbers" : fmt::format("{}", fmt::join(shown, ", "));
  if (tables.size() > kMost) hint += fmt::format(" and {} more", tables.size() - kMost);
  throw ConfigError(
      fmt::format("{}: there is no {} in this file", display_path(path), Json(name).dump()), "",
      hint);
}

}  // namespace thresher::activation_cache
