// One fuzz target a parser: THRESHER_FUZZ_PARSER is its name.
#include <cstddef>
#include <cstdint>
#include <span>

#include "tests/fuzz/parsers.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const thresher::fuzz::Parser& parser = thresher::fuzz::parser_named(THRESHER_FUZZ_PARSER);
  thresher::fuzz::accepts(parser, std::as_bytes(std::span(data, size)));
  return 0;
}
