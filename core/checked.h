#pragma once

#include <cstdint>
#include <string_view>

namespace thresher {

/// Sizes that come from a file: arithmetic that throws DataError("<what>: a x b overflows") instead
/// of wrapping.
std::uint64_t checked_multiply(std::uint64_t a, std::uint64_t b, std::string_view what);
std::uint64_t checked_add(std::uint64_t a, std::uint64_t b, std::string_view what);

}  // namespace thresher
