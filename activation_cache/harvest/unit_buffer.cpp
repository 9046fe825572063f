#include "activation_cache/harvest/unit_buffer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "activation_cache/harvest/drop_rules.h"
#include "core/error.h"

namespace thresher::activation_cache {

namespace {

bool fits(Dtype dtype, float value) {
  switch (dtype) {
    case Dtype::kFloat32:
      return true;
    case Dtype::kFloat16:
      return std::isfinite(float16_to_float(float_to_float16(value)));
    case Dtype::kBfloat16:
      return std::isfinite(bfloat16_to_float(float_to_bfloat16(value)));
  }
  THRESHER_CHECK(false, "unknown dtype");
}

}  // namespace

UnitBuffer::UnitBuffer(const CacheIdentity& identity, Complaint complaint)
    : identity_(identity), complaint_(std::move(complaint)) {
  const auto positions = static_cast<std::size_t>(
      std::min(identity.unit_contexts(), identity.n_contexts) * identity.context_tokens);
  for (const HookPointWidth& hook : identity.hook_points) {
    Hook& buffer = hooks_.emplace_back();
    buffer.encoded.resize(positions * static_cast<std::size_t>(hook.d_in) *
                          dtype_bytes(identity.dtype));
    buffer.norms.resize(positions);
    buffer.largest.resize(positions);
  }
}

std::uint64_t UnitBuffer::memory_bytes(const CacheIdentity& identity) {
  std::uint64_t bytes_per_position = 0;
  for (const HookPointWidth& hook : identity.hook_points) {
    bytes_per_position += static_cast<std::uint64_t>(hook.d_in) * dtype_bytes(identity.dtype) +
                          sizeof(double) + sizeof(float);
  }
  return bytes_per_position *
         static_cast<std::uint64_t>(std::min(identity.unit_contexts(), identity.n_contexts) *
                                    identity.context_tokens);
}

void UnitBuffer::begin(std::int64_t unit) { unit_ = unit; }

void UnitBuffer::store(std::size_t hook, std::int64_t first_position, std::span<const float> all) {
  const auto width = static_cast<std::size_t>(identity_.hook_points[hook].d_in);
  THRESHER_CHECK(all.size() % width == 0, "activations are [positions, d_in]");
  Hook& buffer = hooks_[hook];
  const std::size_t row_bytes = width * dtype_bytes(identity_.dtype);
  const auto first = static_cast<std::size_t>(first_position);
  const std::size_t n = all.size() / width;
  encode_values(identity_.dtype, all,
                std::span(buffer.encoded).subspan(first * row_bytes, n * row_bytes));
  for (std::size_t i = 0; i < n; ++i) {
    const auto row = all.subspan(i * width, width);
    float largest = 0;
    for (const float value : row) largest = std::max(largest, std::abs(value));
    buffer.largest[first + i] = largest;
    buffer.norms[first + i] = row_norm(row);
    if (!std::isfinite(buffer.norms[first + i])) {
      fail(hook, first_position + static_cast<std::int64_t>(i), "an activation is not finite", "",
           "the host model's weights or its computation are broken");
    }
  }
}

void UnitBuffer::check_fits(std::int64_t position) const {
  for (std::size_t hook = 0; hook < hooks_.size(); ++hook) {
    const float largest = hooks_[hook].largest[position];
    if (fits(identity_.dtype, largest)) continue;
    fail(hook, position,
         fmt::format("magnitude {} does not fit {}", largest, dtype_name(identity_.dtype)),
         identity_.dtype == Dtype::kFloat16 ? "at most 65504" : "",
         "set cache.dtype: bfloat16, or drop such positions with cache.drop_norm_above");
  }
}

void UnitBuffer::fail(std::size_t hook, std::int64_t position, std::string_view problem,
                      std::string_view expected, std::string_view hint) const {
  throw DataError(complaint_(hook, position, problem), expected, hint);
}

}  // namespace thresher::activation_cache
