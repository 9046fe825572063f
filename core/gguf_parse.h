#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/gguf.h"

namespace thresher {

/// Types of metadata values, numbered as in the file.
enum class GgufValueType : std::uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

/// One metadata value. `data` holds integers of every width as std::int64_t (std::uint64_t where
/// they do not fit), both float widths as double, and arrays of strings, integers and float32;
/// other arrays are checked and skipped.
struct GgufValue {
  GgufValueType type = GgufValueType::kUint8;
  GgufValueType element_type = GgufValueType::kUint8;  // of an array
  std::uint64_t offset = 0;                            // of the value, from the start of the file
  std::variant<std::monostate, std::int64_t, std::uint64_t, double, bool, std::string,
               std::vector<std::string>, std::vector<std::int64_t>, std::vector<float>>
      data;
};

/// "uint32", "string", "array of string".
std::string gguf_value_type_name(const GgufValue& value);

/// Everything before the tensor data.
struct GgufHead {
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::vector<GgufTensor> tensors;             // in the file's order
  std::vector<std::uint32_t> tensors_by_name;  // indices into `tensors`, sorted by name
};

/// What one block of a tensor type holds.
struct GgufBlock {
  std::string_view name;
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;
};
/// nullopt for numbers that no GGUF version gives a meaning.
std::optional<GgufBlock> gguf_block(std::uint32_t type);
/// Whether gguf_dequantise knows the type.
bool gguf_can_dequantise(std::uint32_t type);

/// Metadata and tensor table may together take this much of a file.
inline constexpr std::uint64_t kGgufMaxHeadBytes = 512ULL << 20;
inline constexpr std::uint64_t kGgufMaxMetadataEntries = 65'536;
inline constexpr std::uint64_t kGgufMaxTensors = 1'000'000;
inline constexpr std::uint64_t kGgufMaxStringBytes = 64ULL << 20;
/// Over all arrays of a file, so that strings in memory stay within a few times the file's size.
inline constexpr std::uint64_t kGgufMaxArrayElements = 4ULL << 20;

/// Parses the head of a file of `file_bytes` bytes from its first bytes, without touching the file.
/// nullopt if `prefix` ends inside the head (call again with more). DataError, beginning with
/// `where` and the byte offset, for everything that the limits of GgufFile exclude.
std::optional<GgufHead> parse_gguf_head(std::span<const std::byte> prefix, std::uint64_t file_bytes,
                                        const std::string& where);

}  // namespace thresher
