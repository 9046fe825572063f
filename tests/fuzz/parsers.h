#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace thresher::fuzz {

/// A parser of untrusted bytes, as the mutation tests and the fuzz targets call it. `parse` returns
/// or throws an Error; whatever else it does is a fault: another exception, an InternalError, a
/// crash, a sanitizer's report, a large allocation. Where a checksum of the format would refuse
/// nearly every changed input at once, the same content with a right checksum is parsed as well.
struct Parser {
  std::string_view name;  // also of its seeds' folder: tests/fuzz/corpus/<name>
  void (*parse)(std::span<const std::byte> bytes);
};

/// All of them. "hdf5" is no fuzz target: libhdf5 is not built with sanitizers, and what crashes it
/// does so in a child process.
std::span<const Parser> parsers();
/// InternalError for a name that there is not.
const Parser& parser_named(std::string_view name);

/// True if the parser accepts the bytes, false if it refuses them as it should; what else it throws
/// goes through.
bool accepts(const Parser& parser, std::span<const std::byte> bytes);

// Parsers of what a cache or a checkpoint keeps in JSON (cache_parsers.cpp).
void parse_commit_log(std::span<const std::byte> bytes);
void parse_cache_manifest(std::span<const std::byte> bytes);
void parse_cache_identity(std::span<const std::byte> bytes);
void parse_checkpoint_commit(std::span<const std::byte> bytes);
void parse_checkpoint_state(std::span<const std::byte> bytes);
void parse_hdf5_tables(std::span<const std::byte> bytes);

inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace thresher::fuzz
