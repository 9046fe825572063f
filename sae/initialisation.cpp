#include "sae/initialisation.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>

#include "core/error.h"
#include "sae/lane_sums.h"

namespace thresher::sae {
namespace {

constexpr int kMaxRounds = 100;
constexpr double kTolerance = 1e-7;  // of the RMS distance from the mean
constexpr double kSmoothing = 1e-6;  // the same

void check_sample(const at::Tensor& sample) {
  THRESHER_CHECK(sample.dim() == 2 && sample.size(0) > 0 && sample.is_contiguous() &&
                     sample.scalar_type() == at::kFloat,
                 "a sample is a contiguous float32 [n, d_in] with at least one row");
}

double squared_distance(const float* row, const std::vector<double>& point) {
  // Four partial sums in a fixed pattern: one chain of double additions would be slow.
  double parts[4] = {};
  const std::size_t d = point.size();
  std::size_t i = 0;
  for (; i + 4 <= d; i += 4) {
    for (std::size_t p = 0; p < 4; ++p) {
      const double difference = static_cast<double>(row[i + p]) - point[i + p];
      parts[p] += difference * difference;
    }
  }
  for (; i < d; ++i) {
    const double difference = static_cast<double>(row[i]) - point[i];
    parts[0] += difference * difference;
  }
  return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

}  // namespace

void fill_random_directions(at::Tensor& W, double norm, const RandomStream& stream) {
  THRESHER_CHECK(W.is_contiguous() && W.scalar_type() == at::kFloat, "W is contiguous float32");
  const std::int64_t cols = W.size(1);
  std::vector<double> row(static_cast<std::size_t>(cols));
  float* out = W.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < W.size(0); ++i, out += cols) {
    double squares = 0;
    for (std::int64_t j = 0; j < cols; ++j) {
      row[j] = stream.normal(static_cast<std::uint64_t>(i * cols + j));
      squares += row[j] * row[j];
    }
    const double scale = squares > 0 ? norm / std::sqrt(squares) : 0;
    for (std::int64_t j = 0; j < cols; ++j) out[j] = static_cast<float>(row[j] * scale);
  }
}

std::vector<double> mean_row(const at::Tensor& sample) {
  check_sample(sample);
  std::vector<double> mean = column_sums(sample);
  for (double& value : mean) value /= static_cast<double>(sample.size(0));
  return mean;
}

double mean_squared_norm(const at::Tensor& sample) {
  check_sample(sample);
  return sum_of_squares(sample) / static_cast<double>(sample.size(0));
}

std::vector<double> geometric_median(const at::Tensor& sample) {
  std::vector<double> point = mean_row(sample);
  const std::int64_t n = sample.size(0);
  const std::int64_t d = sample.size(1);
  const float* rows = sample.const_data_ptr<float>();

  double spread = 0;
  for (std::int64_t r = 0; r < n; ++r) spread += squared_distance(rows + r * d, point);
  spread /= static_cast<double>(n);
  if (spread == 0) return point;  // all rows are the same point

  std::vector<double> next(point.size());
  for (int round = 0; round < kMaxRounds; ++round) {
    std::fill(next.begin(), next.end(), 0.0);
    double weights = 0;
    for (std::int64_t r = 0; r < n; ++r) {
      const float* row = rows + r * d;
      const double weight =
          1 / std::sqrt(squared_distance(row, point) + kSmoothing * kSmoothing * spread);
      weights += weight;
      for (std::int64_t j = 0; j < d; ++j) next[j] += weight * static_cast<double>(row[j]);
    }
    double moved = 0;
    for (std::size_t j = 0; j < next.size(); ++j) {
      next[j] /= weights;
      moved += (next[j] - point[j]) * (next[j] - point[j]);
    }
    point.swap(next);
    if (moved <= kTolerance * kTolerance * spread) break;
  }
  return point;
}

at::Tensor initial_decoder_bias(const std::string& how, const at::Tensor& sample) {
  check_sample(sample);
  at::Tensor bias = at::zeros({sample.size(1)}, at::kFloat);
  if (how == "zero") return bias;
  THRESHER_CHECK(how == "mean" || how == "geometric_median", "unknown decoder_bias_init " + how);
  const std::vector<double> point = how == "mean" ? mean_row(sample) : geometric_median(sample);
  float* out = bias.mutable_data_ptr<float>();
  for (std::size_t j = 0; j < point.size(); ++j) out[j] = static_cast<float>(point[j]);
  return bias;
}

}  // namespace thresher::sae
