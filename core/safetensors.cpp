#include "core/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/checked.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json.h"

namespace thresher {
namespace {

Dtype float_dtype_of(const SafetensorsEntry& entry, const std::filesystem::path& path) {
  if (entry.dtype == "F32") return Dtype::kFloat32;
  if (entry.dtype == "F16") return Dtype::kFloat16;
  if (entry.dtype == "BF16") return Dtype::kBfloat16;
  throw DataError(
      fmt::format("{}: tensor {} is {}", path.string(), Json(entry.name).dump(), entry.dtype),
      "F32, F16 or BF16");
}

std::string some_names(const std::vector<SafetensorsEntry>& entries) {
  constexpr std::size_t kMost = 8;
  std::string text = "the file holds ";
  for (std::size_t i = 0; i < std::min(entries.size(), kMost); ++i) {
    text += (i > 0 ? ", " : "") + Json(entries[i].name).dump();
  }
  if (entries.empty()) text += "no tensor";
  if (entries.size() > kMost) text += fmt::format(" and {} more", entries.size() - kMost);
  return text;
}

std::string make_header(std::span<const SafetensorsTensor> tensors,
                        const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) {
    Json& pairs = header["__metadata__"] = Json::object();
    for (const auto& [key, value] : metadata) pairs.append_member(key, value);
  }
  std::uint64_t offset = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    std::uint64_t bytes = safetensors_dtype_bytes(tensor.dtype);
    for (const std::int64_t size : tensor.shape) {
      THRESHER_CHECK(size >= 0, "safetensors: negative size in tensor " + tensor.name);
      bytes = checked_multiply(bytes, static_cast<std::uint64_t>(size), tensor.name);
    }
    THRESHER_CHECK(bytes == tensor.bytes.size(),
                   "safetensors: shape and bytes disagree in tensor " + tensor.name);
    const std::uint64_t end = checked_add(offset, bytes, tensor.name);
    header.append_member(tensor.name, Json::object({{"dtype", tensor.dtype},
                                                    {"shape", Json::array_of(tensor.shape)},
                                                    {"data_offsets", Json::array({offset, end})}}));
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

void write_to(const FileDescriptor& file, const std::filesystem::path& path,
              std::span<const SafetensorsTensor> tensors,
              const std::map<std::string, std::string>& metadata) {
  const std::string header = make_header(tensors, metadata);
  const std::uint64_t header_bytes = header.size();
  std::string start(sizeof(header_bytes), '\0');
  std::memcpy(start.data(), &header_bytes, sizeof(header_bytes));
  start += header;
  const auto start_bytes = std::as_bytes(std::span(start.data(), start.size()));
  std::uint64_t file_bytes = start.size();
  for (const SafetensorsTensor& tensor : tensors) file_bytes += tensor.bytes.size();
  // The reader's own checks: what is written can be read back.
  SafetensorsFile::parse_header(start_bytes, file_bytes, path.string(), nullptr);
  write_all(file, start_bytes, path);
  for (const SafetensorsTensor& tensor : tensors) write_all(file, tensor.bytes, path);
}

}  // namespace

struct SafetensorsFile::State {
  std::filesystem::path path;
  FileDescriptor file;
  std::uint64_t data_start = 0;
  std::vector<SafetensorsEntry> entries;
  std::vector<std::size_t> by_name;  // indices into entries
  std::map<std::string, std::string> metadata;
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->file = open_for_reading(path);
  const std::uint64_t file_bytes = thresher::file_size(path);
  std::vector<std::byte> head(std::min<std::uint64_t>(file_bytes, 8));
  read_at(state_->file, 0, head, path);
  std::uint64_t header_bytes = 0;
  if (head.size() == 8) std::memcpy(&header_bytes, head.data(), 8);
  // A length that cannot be right is refused by parse_header before the header is read or
  // allocated.
  if (head.size() == 8 && header_bytes <= kMaxHeaderBytes && header_bytes <= file_bytes - 8) {
    head.resize(8 + header_bytes);
    read_at(state_->file, 8, std::span(head).subspan(8), path);
  }
  state_->entries = parse_header(head, file_bytes, path.string(), &state_->metadata);
  state_->data_start = head.size();
  state_->by_name.resize(state_->entries.size());
  std::iota(state_->by_name.begin(), state_->by_name.end(), std::size_t{0});
  std::sort(state_->by_name.begin(), state_->by_name.end(),
            [&](auto a, auto b) { return state_->entries[a].name < state_->entries[b].name; });
}

SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;

const std::vector<SafetensorsEntry>& SafetensorsFile::entries() const { return state_->entries; }
const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return state_->metadata;
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto& entries = state_->entries;
  const auto it = std::lower_bound(
      state_->by_name.begin(), state_->by_name.end(), name,
      [&](std::size_t index, std::string_view sought) { return entries[index].name < sought; });
  return it != state_->by_name.end() && entries[*it].name == name ? &entries[*it] : nullptr;
}

const SafetensorsEntry& SafetensorsFile::at(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (entry != nullptr) return *entry;
  throw DataError(fmt::format("{}: tensor {} is missing", state_->path.string(), Json(name).dump()),
                  {}, some_names(state_->entries));
}

void SafetensorsFile::read(const SafetensorsEntry& entry, std::span<std::byte> out) const {
  THRESHER_CHECK(out.size() == entry.end - entry.begin,
                 "safetensors: wrong buffer size for tensor " + entry.name);
  read_at(state_->file, state_->data_start + entry.begin, out, state_->path);
}

void SafetensorsFile::read_part(const SafetensorsEntry& entry, std::uint64_t first_byte,
                                std::span<std::byte> out) const {
  const std::uint64_t bytes = entry.end - entry.begin;
  THRESHER_CHECK(first_byte <= bytes && out.size() <= bytes - first_byte,
                 "safetensors: a part outside of tensor " + entry.name);
  read_at(state_->file, state_->data_start + entry.begin + first_byte, out, state_->path);
}

const std::filesystem::path& SafetensorsFile::path() const { return state_->path; }

std::vector<float> SafetensorsFile::read_float32(std::string_view name) const {
  const SafetensorsEntry& entry = at(name);
  const Dtype dtype = float_dtype_of(entry, state_->path);
  const std::uint64_t bytes = entry.end - entry.begin;
  std::vector<float> values(bytes / dtype_bytes(dtype));
  if (dtype == Dtype::kFloat32) {
    read(entry, std::as_writable_bytes(std::span(values)));
  } else {
    std::vector<std::byte> raw(bytes);
    read(entry, raw);
    decode_values(dtype, raw, values);
  }
  return values;
}

void write_safetensors(const std::filesystem::path& path,
                       std::span<const SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  const FileDescriptor file = create_file(path);
  write_to(file, path, tensors, metadata);
  sync_file(file, path);
}

void write_safetensors_atomically(const std::filesystem::path& path,
                                  std::span<const SafetensorsTensor> tensors,
                                  const std::map<std::string, std::string>& metadata) {
  write_file_atomically(
      path, [&](const FileDescriptor& file) { write_to(file, path, tensors, metadata); });
}

}  // namespace thresher
