#include "core/checked.h"

#include <fmt/format.h>

#include "core/error.h"

namespace thresher {

std::uint64_t checked_multiply(std::uint64_t a, std::uint64_t b, std::string_view what) {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) {
    throw DataError(fmt::format("{}: {} x {} overflows", what, a, b), "a size that fits 64 bits");
  }
  return product;
}

std::uint64_t checked_add(std::uint64_t a, std::uint64_t b, std::string_view what) {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) {
    throw DataError(fmt::format("{}: {} + {} overflows", what, a, b), "a size that fits 64 bits");
  }
  return sum;
}

}  // namespace thresher
