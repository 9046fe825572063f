#include "core/byte_reader.h"

#include <fmt/format.h>

#include "core/error.h"

namespace thresher {

std::span<const std::byte> ByteReader::take(std::uint64_t count, std::string_view what) {
  if (count > remaining()) {
    fail(fmt::format("{} needs {} bytes, {} are left", what, count, remaining()));
  }
  const auto taken = bytes_.subspan(offset_, count);
  offset_ += count;
  return taken;
}

void ByteReader::fail(std::string_view problem, std::string_view expected) const {
  throw DataError(fmt::format("{}: at byte {}: {}", where_, offset_, problem), expected,
                  "the file is truncated or damaged; get it again");
}

}  // namespace thresher
