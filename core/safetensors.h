#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace thresher {

/// Element types of the format that Thresher reads and writes ("F64", "F32", "F16", "BF16", "I64",
/// "I32", "U8", "BOOL").
struct SafetensorsEntry {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  // byte range inside the data section
  std::uint64_t end = 0;
};

std::uint64_t safetensors_dtype_bytes(std::string_view dtype);  // DataError for unknown names

/// Reads https://github.com/huggingface/safetensors files as hostile input: header <= 100 MB, no
/// duplicate keys, offsets contiguous from 0 to the end of the file, shape x dtype = bytes, names
/// <= 512 bytes. Tensors are read by pread into memory the caller owns.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;

  const std::vector<SafetensorsEntry>& entries() const;
  const std::map<std::string, std::string>& metadata() const;
  const SafetensorsEntry* find(std::string_view name) const;
  /// Throws DataError naming the file and the tensor.
  const SafetensorsEntry& at(std::string_view name) const;
  /// `out` must have exactly end - begin bytes.
  void read(const SafetensorsEntry& entry, std::span<std::byte> out) const;
  /// Reads a float32, float16 or bfloat16 tensor as float32.
  std::vector<float> read_float32(std::string_view name) const;

  /// Parses only the header bytes (for fuzzing): `file_bytes` is the size of the whole file.
  static std::vector<SafetensorsEntry> parse_header(std::span<const std::byte> head,
                                                    std::uint64_t file_bytes,
                                                    std::string_view where,
                                                    std::map<std::string, std::string>* metadata);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct SafetensorsTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Writes a file (not atomically: callers write into a temporary folder or use
/// write_safetensors_atomically). Tensors are laid out in the order given; metadata keys are
/// sorted; the bytes depend on the arguments alone. The file is fsynced.
void write_safetensors(const std::filesystem::path& path,
                       std::span<const SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});
void write_safetensors_atomically(const std::filesystem::path& path,
                                  std::span<const SafetensorsTensor> tensors,
                                  const std::map<std::string, std::string>& metadata = {});

}  // namespace thresher
