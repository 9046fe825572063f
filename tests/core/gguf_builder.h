#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace thresher::testing {

template <class T>
std::string raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

inline std::string raw_string(std::string_view text) {
  return raw<std::uint64_t>(text.size()) + std::string(text);
}

/// Composes GGUF files, well-formed by default; every count, number and offset can be forced to
/// something wrong.
struct GgufBuilder {
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> dimensions;  // innermost first, as in the file
    std::uint32_t type = 0;
    std::string data;
    std::optional<std::uint64_t> offset = {};  // of the data section; the next free place if absent
    std::optional<std::uint32_t> dimension_count = {};
  };

  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::uint64_t alignment = 32;  // what the layout uses; set general.alignment as well to change it
  std::optional<std::uint64_t> tensor_count;
  std::optional<std::uint64_t> metadata_count;
  std::vector<std::string> metadata;
  std::vector<Tensor> tensors;

  GgufBuilder& entry(std::string_view key, std::uint32_t type, std::string_view payload) {
    metadata.push_back(raw_string(key) + raw(type) + std::string(payload));
    return *this;
  }
  GgufBuilder& uint32(std::string_view key, std::uint32_t value) {
    return entry(key, 4, raw(value));
  }
  GgufBuilder& float32(std::string_view key, float value) { return entry(key, 6, raw(value)); }
  GgufBuilder& string(std::string_view key, std::string_view value) {
    return entry(key, 8, raw_string(value));
  }
  GgufBuilder& array(std::string_view key, std::uint32_t element_type, std::uint64_t count,
                     std::string_view elements) {
    return entry(key, 9, raw(element_type) + raw(count) + std::string(elements));
  }
  GgufBuilder& strings(std::string_view key, const std::vector<std::string>& values) {
    std::string elements;
    for (const auto& value : values) elements += raw_string(value);
    return array(key, 8, values.size(), elements);
  }
  GgufBuilder& tensor(Tensor added) {
    tensors.push_back(std::move(added));
    return *this;
  }
  /// A float32 tensor; `shape` is outermost first.
  GgufBuilder& float32_tensor(std::string name, std::vector<std::int64_t> shape,
                              const std::vector<float>& values) {
    Tensor added{.name = std::move(name), .dimensions = {}, .type = 0, .data = {}};
    for (auto size = shape.rbegin(); size != shape.rend(); ++size) {
      added.dimensions.push_back(static_cast<std::uint64_t>(*size));
    }
    added.data.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    return tensor(std::move(added));
  }

  std::string bytes() const {
    std::string out = magic + raw(version) +
                      raw<std::uint64_t>(tensor_count.value_or(tensors.size())) +
                      raw<std::uint64_t>(metadata_count.value_or(metadata.size()));
    for (const auto& item : metadata) out += item;
    std::string data;
    for (const auto& tensor : tensors) {
      data.resize((data.size() + alignment - 1) / alignment * alignment, '\0');
      out += raw_string(tensor.name);
      out += raw<std::uint32_t>(
          tensor.dimension_count.value_or(static_cast<std::uint32_t>(tensor.dimensions.size())));
      for (const auto size : tensor.dimensions) out += raw(size);
      out += raw(tensor.type) + raw<std::uint64_t>(tensor.offset.value_or(data.size()));
      data += tensor.data;
    }
    if (!data.empty()) out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
    return out + data;
  }
};

/// A file in the temporary folder that is removed with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view bytes = {}, std::string_view suffix = ".gguf") {
    std::string pattern = (std::filesystem::temp_directory_path() / "thresher-XXXXXX").string();
    const int fd = mkstemp(pattern.data());
    if (fd >= 0) close(fd);
    path_ = pattern + std::string(suffix);
    std::filesystem::rename(pattern, path_);
    write(bytes);
  }
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(std::string_view bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace thresher::testing
