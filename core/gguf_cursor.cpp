#include "core/gguf_cursor.h"

#include <fmt/format.h>

#include "core/error.h"

namespace thresher::gguf {

std::string printable(std::string_view text) {
  constexpr std::size_t kShown = 80;
  std::string out = "'";
  for (const char c : text.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(c);
    const bool is_printable = byte >= 0x20 && byte < 0x7F && c != '\\' && c != '\'';
    out += is_printable ? std::string(1, c) : fmt::format("\\x{:02x}", byte);
  }
  return out + (text.size() > kShown ? "'..." : "'");
}

std::span<const std::byte> Cursor::take(std::uint64_t count, std::string_view what) {
  need(count, what);
  return reader_.take(count, what);
}

std::string Cursor::string(std::string_view what, std::uint64_t max_bytes) {
  const std::uint64_t at = offset();
  const auto length = read<std::uint64_t>(what);
  if (length > max_bytes) {
    fail(at, fmt::format("{} is {} bytes long", what, length),
         fmt::format("at most {} bytes", max_bytes));
  }
  const auto bytes = take(length, what);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void Cursor::fail(std::uint64_t at, std::string_view problem, std::string_view expected) const {
  throw DataError(fmt::format("{}: at byte {}: {}", reader_.where(), at, problem), expected,
                  "the file is damaged or not a GGUF file; fetch it again");
}

void Cursor::need(std::uint64_t count, std::string_view what) const {
  if (count > remaining_in_file()) {
    fail(offset(), fmt::format("the file ends inside {}: {} bytes needed, {} left", what, count,
                               remaining_in_file()));
  }
  if (count > kGgufMaxHeadBytes || offset() + count > kGgufMaxHeadBytes) {
    fail(offset(), fmt::format("metadata and tensor table go past {} bytes", kGgufMaxHeadBytes));
  }
  if (count > reader_.remaining()) throw PrefixTooShort{};
}

}  // namespace thresher::gguf
