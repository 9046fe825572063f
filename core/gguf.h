#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thresher {

/// Block types of GGUF tensors that Thresher can turn into float32.
enum class GgufType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct GgufTensor {
  std::string name;
  std::uint32_t type = 0;           // the file's number; see gguf_type_name
  std::vector<std::int64_t> shape;  // outermost first (PyTorch order: the file's, reversed)
  std::uint64_t elements = 0;
  std::uint64_t offset = 0;  // from the start of the file
  std::uint64_t bytes = 0;
};

/// Reads GGUF v2 and v3, little-endian, as hostile input. Limits: 65,536 metadata entries, 1 M
/// tensors, strings of 64 MiB, arrays no larger than the bytes left and 4 Mi elements over the
/// whole file, 512 MiB of metadata, 4 dimensions, unique names, alignment a power of two in [8,
/// 65536], offset + size inside the file, no overlaps. Every typed access checks the stored type.
/// DataError names the file and byte offset. Only metadata is kept in memory; tensors are read when
/// asked for. Const members may be called from several threads.
class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);
  ~GgufFile();
  GgufFile(GgufFile&&) noexcept;

  const std::filesystem::path& path() const;
  bool has(std::string_view key) const;
  /// Metadata by key; DataError if absent or of another type. Integers of any width are accepted
  /// for `integer`.
  std::int64_t integer(std::string_view key) const;
  double number(std::string_view key) const;
  bool boolean(std::string_view key) const;
  const std::string& string(std::string_view key) const;
  const std::vector<std::string>& strings(std::string_view key) const;
  const std::vector<std::int64_t>& integers(std::string_view key) const;
  const std::vector<float>& floats(std::string_view key) const;
  std::vector<std::string> keys() const;

  const std::vector<GgufTensor>& tensors() const;
  const GgufTensor* find(std::string_view name) const;
  const GgufTensor& at(std::string_view name) const;  // DataError naming file and tensor
  /// Dequantised to float32, bit for bit as the `gguf` Python package does. DataError for other
  /// block types, naming the tensor and the types that can be read.
  std::vector<float> read_float32(const GgufTensor& tensor) const;
  /// The same in pieces of a few megabytes, in order, so that no second copy of the tensor exists.
  void read_float32(const GgufTensor& tensor,
                    const std::function<void(std::span<const float> piece)>& take) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string gguf_type_name(std::uint32_t type);
/// Dequantises `bytes` of `elements` values (exposed for tests and fuzzing).
void gguf_dequantise(GgufType type, std::span<const std::byte> bytes, std::span<float> out);

}  // namespace thresher
