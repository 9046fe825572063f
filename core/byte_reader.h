#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace thresher {

/// A cursor over untrusted bytes. Every read is checked against what is left and throws DataError
/// naming the file, the offset and what was being read. Little-endian.
class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string where)
      : bytes_(bytes), where_(std::move(where)) {}

  template <class T>
  T read(std::string_view what) {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    const auto raw = take(sizeof(T), what);
    std::memcpy(&value, raw.data(), sizeof(T));
    return value;
  }
  /// The next `count` bytes, not copied.
  std::span<const std::byte> take(std::uint64_t count, std::string_view what);
  std::uint64_t offset() const { return offset_; }
  std::uint64_t remaining() const { return bytes_.size() - offset_; }
  const std::string& where() const { return where_; }
  [[noreturn]] void fail(std::string_view problem, std::string_view expected = {}) const;

 private:
  std::span<const std::byte> bytes_;
  std::uint64_t offset_ = 0;
  std::string where_;
};

}  // namespace thresher
