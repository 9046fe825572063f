#include "host_model/transformer_shape.h"

#include <fmt/format.h>

#include "core/error.h"

namespace thresher::host_model {
namespace {

template <class Value, class Range>
Value check_range(std::string_view where, std::string_view key, Value value, const Range& range) {
  if (value >= range.min && value <= range.max) return value;
  throw DataError(fmt::format("{}: {} = {}", where, key, value),
                  fmt::format("{} to {}", range.min, range.max));
}

}  // namespace

std::int64_t in_range(std::string_view where, std::string_view key, std::int64_t value,
                      const IntegerRange& range) {
  return check_range(where, key, value, range);
}

double in_range(std::string_view where, std::string_view key, double value,
                const NumberRange& range) {
  return check_range(where, key, value, range);
}

void complete_shape(std::string_view where, TransformerShape& shape) {
  if (shape.n_heads % shape.n_kv_heads != 0) {
    throw DataError(fmt::format("{}: {} query heads and {} key-value heads", where, shape.n_heads,
                                shape.n_kv_heads),
                    "a whole number of query heads for each key-value head");
  }
  if (shape.d_head == 0 && shape.d_model % shape.n_heads != 0) {
    throw DataError(fmt::format("{}: d_model {} and {} heads", where, shape.d_model, shape.n_heads),
                    "heads that divide d_model");
  }
  if (shape.d_head == 0) shape.d_head = shape.d_model / shape.n_heads;
  if (shape.d_head % 2 != 0) {
    throw DataError(fmt::format("{}: heads of width {}", where, shape.d_head), "an even width");
  }
}

}  // namespace thresher::host_model
