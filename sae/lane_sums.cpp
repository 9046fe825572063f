#include "sae/lane_sums.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/error.h"
#include "kernels/column_sums.h"
#include "kernels/decoder_norm.h"

namespace thresher::sae {
namespace {

std::vector<double> sum_rows(const at::Tensor& values) {
  const std::int64_t rows = values.size(0);
  const std::int64_t cols = values.size(1);
  std::vector<double> sums(static_cast<std::size_t>(cols), 0.0);
  const double* row = values.const_data_ptr<double>();
  for (std::int64_t r = 0; r < rows; ++r, row += cols) {
    for (std::int64_t c = 0; c < cols; ++c) sums[c] += row[c];
  }
  return sums;
}

double sum_squares(const at::Tensor& values) {
  double sum = 0;
  const double* value = values.const_data_ptr<double>();
  for (std::int64_t i = 0; i < values.numel(); ++i) sum += value[i] * value[i];
  return sum;
}

bool is_double(const at::Tensor& values) {
  THRESHER_CHECK(values.is_contiguous() &&
                     (values.scalar_type() == at::kFloat || values.scalar_type() == at::kDouble),
                 "sums are over contiguous float32 or float64 tensors");
  return values.scalar_type() == at::kDouble;
}

}  // namespace

std::vector<double> column_sums(const at::Tensor& values) {
  THRESHER_CHECK(values.dim() == 2, "column sums are over matrices");
  if (is_double(values)) return sum_rows(values);
  std::vector<double> sums(static_cast<std::size_t>(values.size(1)));
  kernels::column_sums({}, values.size(0), values.size(1), nullptr, values.const_data_ptr<float>(),
                       sums.data());
  return sums;
}

double sum_of_squares(const at::Tensor& values) {
  if (is_double(values)) return sum_squares(values);
  const std::int64_t cols = values.dim() == 0 ? 1 : values.size(-1);
  if (cols == 0) return 0;
  return kernels::sum_of_squares({}, values.numel() / cols, cols, values.const_data_ptr<float>());
}

std::vector<double> lane_tree_sum(std::vector<std::vector<double>> lanes) {
  const std::size_t count = lanes.size();
  THRESHER_CHECK(count > 0 && (count & (count - 1)) == 0, "lanes come in powers of two");
  for (std::size_t width = 1; width < count; width *= 2) {
    for (std::size_t i = 0; i < count; i += 2 * width) {
      THRESHER_CHECK(lanes[i].size() == lanes[i + width].size(), "lanes hold equally long sums");
      for (std::size_t j = 0; j < lanes[i].size(); ++j) lanes[i][j] += lanes[i + width][j];
    }
  }
  return std::move(lanes[0]);
}

std::span<const float> values_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

std::vector<float> narrowed(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

void take_sum(const kernels::LaneTree& tree, const at::Tensor& gradient) {
  const std::span<const float> sum = tree.result();
  std::copy(sum.begin(), sum.end(), gradient.mutable_data_ptr<float>());
}

double batch_fvu(double error_squares, double input_squares, std::span<const double> column_sums,
                 double n_tokens) {
  double variance = input_squares;
  for (const double sum : column_sums) variance -= sum * sum / n_tokens;
  return error_squares / variance;
}

}  // namespace thresher::sae
