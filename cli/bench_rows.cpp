#include "cli/bench_rows.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/npy.h"
#include "core/random.h"

namespace thresher::cli {
namespace {

constexpr std::int64_t kActive = 16;
constexpr std::int64_t kDirectionsPerDimension = 8;
constexpr double kPopularityExponent = 0.7;
constexpr double kLeastAmplitude = 0.2;
constexpr double kMean = 0.1;
constexpr double kNoise = 0.05;

std::vector<float> normals(std::int64_t count, const RandomStream& stream) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(stream.normal(i));
  return out;
}

std::vector<float> unit_directions(std::int64_t count, std::int64_t d_in) {
  std::vector<float> out = normals(count * d_in, RandomStream(0, "bench.rows.directions"));
  for (std::int64_t i = 0; i < count; ++i) {
    const std::span<float> row(out.data() + i * d_in, static_cast<std::size_t>(d_in));
    double square = 0;
    for (const float value : row) square += static_cast<double>(value) * value;
    const auto scale = static_cast<float>(1 / std::sqrt(square));
    for (float& value : row) value *= scale;
  }
  return out;
}

/// Running sums of r^-0.7 over the ranks, the last one 1.
std::vector<double> popularity_sums(std::int64_t count) {
  std::vector<double> sums;
  double sum = 0;
  for (std::int64_t rank = 1; rank <= count; ++rank) {
    sum += std::pow(static_cast<double>(rank), -kPopularityExponent);
    sums.push_back(sum);
  }
  for (double& value : sums) value /= sum;
  return sums;
}

}  // namespace

at::Tensor synthetic_rows(std::int64_t n_rows, std::int64_t d_in) {
  const std::int64_t n_directions = kDirectionsPerDimension * d_in;
  const std::vector<float> directions = unit_directions(n_directions, d_in);
  const std::vector<float> mean = normals(d_in, RandomStream(0, "bench.rows.mean"));
  const std::vector<double> popularity = popularity_sums(n_directions);
  const RandomStream choices(0, "bench.rows.choices"), amplitudes(0, "bench.rows.amplitudes");
  const RandomStream noise(0, "bench.rows.noise");
  at::Tensor out = at::empty({n_rows, d_in}, at::kFloat);
  auto* row = out.data_ptr<float>();
  double norms = 0;
  for (std::int64_t r = 0; r < n_rows; ++r, row += d_in) {
    for (std::int64_t j = 0; j < d_in; ++j) {
      const double draw = noise.normal(static_cast<std::uint64_t>(r * d_in + j));
      row[j] = static_cast<float>(kNoise * draw + kMean * static_cast<double>(mean[j]));
    }
    for (std::int64_t a = 0; a < kActive; ++a) {
      const auto index = static_cast<std::uint64_t>(r * kActive + a);
      const auto found =
          std::upper_bound(popularity.begin(), popularity.end() - 1, choices.uniform(index));
      const float* direction = directions.data() + (found - popularity.begin()) * d_in;
      const auto amplitude =
          static_cast<float>(kLeastAmplitude - std::log1p(-amplitudes.uniform(index)));
      for (std::int64_t j = 0; j < d_in; ++j) row[j] += amplitude * direction[j];
    }
    double square = 0;
    for (std::int64_t j = 0; j < d_in; ++j) square += static_cast<double>(row[j]) * row[j];
    norms += std::sqrt(square);
  }
  return out.mul_(std::sqrt(static_cast<double>(d_in)) * static_cast<double>(n_rows) / norms);
}

at::Tensor read_rows(const std::filesystem::path& path, std::int64_t n_rows, std::int64_t d_in) {
  const NpyFile file(path);
  const NpyHeader& header = file.header();
  if (header.dtype_name() != "float32" || header.shape.size() != 2 || header.shape[1] != d_in ||
      header.shape[0] < n_rows) {
    throw ConfigError(
        fmt::format("bench step: {} holds {} {}", path.string(), header.dtype_name(), header.shape),
        fmt::format("float32 [at least {}, {}]", n_rows, d_in));
  }
  at::Tensor out = at::empty({n_rows, d_in}, at::kFloat);
  file.read(0, std::as_writable_bytes(
                   std::span(out.data_ptr<float>(), static_cast<std::size_t>(out.numel()))));
  return out;
}

}  // namespace thresher::cli
