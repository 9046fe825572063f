#include "core/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/gguf_cursor.h"
#include "core/gguf_parse.h"

namespace thresher {
namespace {

// Holds the head of most files, so that it is parsed once.
constexpr std::uint64_t kFirstRead = 4ULL << 20;
constexpr std::uint64_t kElementsPerRead = 1ULL << 20;

GgufHead read_head(const FileDescriptor& file, std::uint64_t file_bytes,
                   const std::filesystem::path& path) {
  std::vector<std::byte> prefix;
  for (std::uint64_t size = kFirstRead;; size *= 2) {
    const std::uint64_t known = prefix.size();
    prefix.resize(std::min(size, file_bytes));
    read_at(file, known, std::span(prefix).subspan(known), path);
    if (auto head = parse_gguf_head(prefix, file_bytes, path.string())) return std::move(*head);
    THRESHER_CHECK(prefix.size() < file_bytes, "parse_gguf_head wants more than the file holds");
  }
}

}  // namespace

struct GgufFile::State {
  std::filesystem::path path;
  FileDescriptor file;
  GgufHead head;

  const GgufValue& value(std::string_view key) const {
    const auto entry = head.metadata.find(key);
    if (entry == head.metadata.end()) {
      throw DataError(
          fmt::format("{}: metadata {} is missing", path.string(), gguf::printable(key)), {},
          "the file is not a complete model, or of a kind that Thresher does not know");
    }
    return entry->second;
  }

  /// The value of `key` as T; `wanted` names the stored types that are accepted.
  template <class T>
  const T& typed(std::string_view key, std::string_view wanted) const {
    const GgufValue& found = value(key);
    if (const T* data = std::get_if<T>(&found.data)) return *data;
    throw DataError(fmt::format("{}: at byte {}: metadata {} is of type {}", path.string(),
                                found.offset, gguf::printable(key), gguf_value_type_name(found)),
                    wanted);
  }
};

GgufFile::GgufFile(const std::filesystem::path& path) : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->file = open_for_reading(path);
  state_->head = read_head(state_->file, thresher::file_size(path), path);
}

GgufFile::~GgufFile() = default;
GgufFile::GgufFile(GgufFile&&) noexcept = default;

const std::filesystem::path& GgufFile::path() const { return state_->path; }

bool GgufFile::has(std::string_view key) const { return state_->head.metadata.contains(key); }

std::int64_t GgufFile::integer(std::string_view key) const {
  const GgufValue& found = state_->value(key);
  if (const auto* wide = std::get_if<std::uint64_t>(&found.data)) {
    throw DataError(fmt::format("{}: at byte {}: metadata {} = {}", state_->path.string(),
                                found.offset, gguf::printable(key), *wide),
                    "an integer below 2^63");
  }
  return state_->typed<std::int64_t>(key, "an integer");
}

double GgufFile::number(std::string_view key) const {
  return state_->typed<double>(key, "float32 or float64");
}

bool GgufFile::boolean(std::string_view key) const { return state_->typed<bool>(key, "bool"); }

const std::string& GgufFile::string(std::string_view key) const {
  return state_->typed<std::string>(key, "string");
}

const std::vector<std::string>& GgufFile::strings(std::string_view key) const {
  return state_->typed<std::vector<std::string>>(key, "array of string");
}

const std::vector<std::int64_t>& GgufFile::integers(std::string_view key) const {
  return state_->typed<std::vector<std::int64_t>>(key, "array of integers");
}

const std::vector<float>& GgufFile::floats(std::string_view key) const {
  return state_->typed<std::vector<float>>(key, "array of float32");
}

std::vector<std::string> GgufFile::keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : state_->head.metadata) keys.push_back(key);
  return keys;
}

const std::vector<GgufTensor>& GgufFile::tensors() const { return state_->head.tensors; }

const GgufTensor* GgufFile::find(std::string_view name) const {
  const GgufHead& head = state_->head;
  const auto place = std::lower_bound(head.tensors_by_name.begin(), head.tensors_by_name.end(),
                                      name, [&](std::uint32_t index, std::string_view wanted) {
                                        return head.tensors[index].name < wanted;
                                      });
  if (place == head.tensors_by_name.end() || head.tensors[*place].name != name) return nullptr;
  return &head.tensors[*place];
}

const GgufTensor& GgufFile::at(std::string_view name) const {
  const GgufTensor* tensor = find(name);
  if (tensor == nullptr) {
    throw DataError(
        fmt::format("{}: tensor {} is missing", state_->path.string(), gguf::printable(name)),
        fmt::format("one of the {} tensors of the file", state_->head.tensors.size()));
  }
  return *tensor;
}

std::vector<float> GgufFile::read_float32(const GgufTensor& tensor) const {
  std::vector<float> values;
  read_float32(tensor, [&](std::span<const float> piece) {
    if (values.empty()) values.reserve(tensor.elements);
    values.insert(values.end(), piece.begin(), piece.end());
  });
  return values;
}

void GgufFile::read_float32(const GgufTensor& tensor,
                            const std::function<void(std::span<const float> piece)>& take) const {
  if (!gguf_can_dequantise(tensor.type)) {
    throw DataError(fmt::format("{}: tensor {} is stored as {}", state_->path.string(),
                                gguf::printable(tensor.name), gguf_type_name(tensor.type)),
                    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K or Q6_K",
                    "fetch or convert the model in one of these types");
  }
  const GgufBlock block = *gguf_block(tensor.type);
  const std::uint64_t blocks = tensor.elements / block.elements;
  const std::uint64_t blocks_per_read = kElementsPerRead / block.elements;
  std::vector<std::byte> raw(std::min(blocks, blocks_per_read) * block.bytes);
  std::vector<float> values(std::min(blocks, blocks_per_read) * block.elements);
  for (std::uint64_t done = 0; done < blocks; done += blocks_per_read) {
    const std::uint64_t count = std::min(blocks_per_read, blocks - done);
    const auto bytes = std::span(raw).first(count * block.bytes);
    const auto piece = std::span(values).first(count * block.elements);
    read_at(state_->file, tensor.offset + done * block.bytes, bytes, state_->path);
    gguf_dequantise(static_cast<GgufType>(tensor.type), bytes, piece);
    take(piece);
  }
}

}  // namespace thresher
