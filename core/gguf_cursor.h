#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/byte_reader.h"
#include "core/gguf_parse.h"

namespace thresher::gguf {

/// Thrown where the prefix ends although the file goes on; caught by parse_gguf_head.
struct PrefixTooShort {};

/// Names in messages come from the file: shown in quotes, cut, with everything unprintable as \xNN.
std::string printable(std::string_view text);

/// Reads the head of a GGUF file from its first bytes, every read checked against the size of the
/// file.
class Cursor {
 public:
  Cursor(std::span<const std::byte> prefix, std::uint64_t file_bytes, const std::string& where)
      : reader_(prefix, where), file_bytes_(file_bytes) {}

  template <class T>
  T read(std::string_view what) {
    need(sizeof(T), what);
    return reader_.read<T>(what);
  }
  std::span<const std::byte> take(std::uint64_t count, std::string_view what);
  std::string string(std::string_view what, std::uint64_t max_bytes);

  /// DataError "<where>: at byte <at>: <problem>".
  [[noreturn]] void fail(std::uint64_t at, std::string_view problem,
                         std::string_view expected = {}) const;

  std::uint64_t offset() const { return reader_.offset(); }
  std::uint64_t remaining_in_file() const { return file_bytes_ - offset(); }
  std::uint64_t file_bytes() const { return file_bytes_; }

 private:
  void need(std::uint64_t count, std::string_view what) const;

  ByteReader reader_;
  std::uint64_t file_bytes_;
};

/// `count` metadata entries from the cursor into `head.metadata`.
void read_metadata(Cursor& cursor, std::uint64_t count, GgufHead& head);

}  // namespace thresher::gguf
