#include "activation_cache/moments.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "activation_cache/cache_format.h"
#include "core/error.h"

namespace thresher::activation_cache {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

void Moments::add_rows(std::span<const float> rows) {
  const std::size_t d_in = mean_.size();
  THRESHER_CHECK(d_in > 0 && rows.size() % d_in == 0, "whole rows only");
  const std::size_t n = rows.size() / d_in;
  if (n == 0) return;
  Moments block(static_cast<std::int64_t>(d_in));
  block.count_ = static_cast<std::int64_t>(n);
  for (std::size_t row = 0; row < n; ++row) {
    const float* values = rows.data() + row * d_in;
    for (std::size_t d = 0; d < d_in; ++d) block.mean_[d] += static_cast<double>(values[d]);
  }
  for (double& mean : block.mean_) mean /= static_cast<double>(n);
  for (std::size_t row = 0; row < n; ++row) {
    const float* values = rows.data() + row * d_in;
    for (std::size_t d = 0; d < d_in; ++d) {
      const double deviation = static_cast<double>(values[d]) - block.mean_[d];
      block.m2_[d] += deviation * deviation;
    }
  }
  merge(block);
}

void Moments::merge(const Moments& other) {
  THRESHER_CHECK(other.mean_.size() == mean_.size(), "moments of different widths");
  if (other.count_ == 0) return;
  const double here = static_cast<double>(count_);
  const double there = static_cast<double>(other.count_);
  const double all = here + there;
  for (std::size_t d = 0; d < mean_.size(); ++d) {
    const double delta = other.mean_[d] - mean_[d];
    mean_[d] += delta * (there / all);
    m2_[d] += other.m2_[d] + delta * delta * (here * there / all);
  }
  count_ += other.count_;
}

SourceStatistics Moments::statistics() const {
  SourceStatistics statistics;
  statistics.n_rows = count_;
  statistics.mean = mean_;
  if (count_ == 0) return statistics;
  double deviation = 0;
  double squared_mean = 0;
  for (std::size_t d = 0; d < mean_.size(); ++d) {
    deviation += m2_[d];
    squared_mean += mean_[d] * mean_[d];
  }
  statistics.mean_squared_deviation = deviation / static_cast<double>(count_);
  statistics.mean_squared_norm = statistics.mean_squared_deviation + squared_mean;
  return statistics;
}

std::vector<double> norm_quantiles(std::vector<double>& norms) {
  std::sort(norms.begin(), norms.end());
  std::vector<double> quantiles;
  for (const double level : kNormQuantileLevels) {
    if (norms.empty()) {
      quantiles.push_back(0);
      continue;
    }
    const double place = std::round(level * static_cast<double>(norms.size() - 1));
    quantiles.push_back(norms[static_cast<std::size_t>(place)]);
  }
  return quantiles;
}

namespace {

constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::array<std::int8_t, 256> kBase64Value = [] {
  std::array<std::int8_t, 256> table{};
  table.fill(-1);
  for (std::size_t i = 0; i < kBase64.size(); ++i) {
    table[static_cast<unsigned char>(kBase64[i])] = static_cast<std::int8_t>(i);
  }
  return table;
}();

}  // namespace

std::string encode_doubles(std::span<const double> values) {
  const auto bytes = std::as_bytes(values);
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    std::uint32_t group = 0;
    const std::size_t n = std::min<std::size_t>(3, bytes.size() - at);
    for (std::size_t i = 0; i < 3; ++i) {
      group = group << 8 | (i < n ? std::to_integer<std::uint32_t>(bytes[at + i]) : 0U);
    }
    for (std::size_t i = 0; i < 4; ++i) {
      text.push_back(i <= n ? kBase64[group >> (18 - 6 * i) & 63U] : '=');
    }
  }
  return text;
}

std::vector<double> decode_doubles(std::string_view text, std::size_t count,
                                   std::string_view where) {
  const std::size_t n_bytes = count * sizeof(double);
  if (text.size() != (n_bytes + 2) / 3 * 4) {
    throw DataError(fmt::format("{}: {} base64 characters", where, text.size()),
                    fmt::format("{} for {} float64 values", (n_bytes + 2) / 3 * 4, count));
  }
  std::vector<std::byte> bytes;
  bytes.reserve(n_bytes + 3);
  for (std::size_t at = 0; at < text.size(); at += 4) {
    std::uint32_t group = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      const char c = text[at + i];
      const bool is_padding = c == '=' && bytes.size() + i > n_bytes;
      const int value = is_padding ? 0 : kBase64Value[static_cast<unsigned char>(c)];
      if (value < 0) throw DataError(fmt::format("{}: not base64 at character {}", where, at + i));
      group = group << 6 | static_cast<std::uint32_t>(value);
    }
    for (const int shift : {16, 8, 0}) bytes.push_back(static_cast<std::byte>(group >> shift));
  }
  std::vector<double> values(count);
  if (count > 0) std::memcpy(values.data(), bytes.data(), n_bytes);
  return values;
}

}  // namespace thresher::activation_cache
