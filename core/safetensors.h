#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace thresher {

/// One tensor as the header describes it. Thresher itself writes "F64", "F32", "F16", "BF16",
/// "I64", "I32", "U8" and "BOOL"; the reader also knows the sizes of the format's other whole-byte
/// types.
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
  static constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;

  const std::vector<SafetensorsEntry>& entries() const;  // in the order of their data
  const std::map<std::string, std::string>& metadata() const;
  const SafetensorsEntry* find(std::string_view name) const;
  /// Throws DataError naming the file and the tensor.
  const SafetensorsEntry& at(std::string_view name) const;
  /// `out` must have exactly end - begin bytes.
  void read(const SafetensorsEntry& entry, std::span<std::byte> out) const;
  /// A part of the tensor's bytes, from `first_byte` on; it must lie inside the tensor.
  void read_part(const SafetensorsEntry& entry, std::uint64_t first_byte,
                 std::span<std::byte> out) const;
  const std::filesystem::path& path() const;
  /// Reads a float32, float16 or bfloat16 tensor as float32.
  std::vector<float> read_float32(std::string_view name) const;

  /// Checks and parses a header without touching a file (for fuzzing). `head` is the start of the
  /// file: the eight bytes of the header's length and the header; `file_bytes` is the size of the
  /// whole file. Entries come in the order of their data. `metadata` may be nullptr.
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
