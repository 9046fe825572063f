#include "sae/lane_sums.h"

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>

#include "core/error.h"

namespace thresher::sae {
namespace {

template <class T>
std::vector<double> sum_rows(const at::Tensor& values) {
  const std::int64_t rows = values.size(0);
  const std::int64_t cols = values.size(1);
  std::vector<double> sums(static_cast<std::size_t>(cols), 0.0);
  const T* row = values.const_data_ptr<T>();
  for (std::int64_t r = 0; r < rows; ++r, row += cols) {
    for (std::int64_t c = 0; c < cols; ++c) sums[c] += static_cast<double>(row[c]);
  }
  return sums;
}

template <class T>
double sum_squares(const at::Tensor& values) {
  // Eight partial sums in a fixed pattern: the compiler may not reorder one chain of additions, and
  // one chain is slow.
  constexpr std::int64_t kParts = 8;
  double parts[kParts] = {};
  const T* value = values.const_data_ptr<T>();
  const std::int64_t count = values.numel();
  std::int64_t i = 0;
  for (; i + kParts <= count; i += kParts) {
    for (std::int64_t p = 0; p < kParts; ++p) {
      const auto v = static_cast<double>(value[i + p]);
      parts[p] += v * v;
    }
  }
  for (std::int64_t p = 0; i < count; ++i, ++p) {
    const auto v = static_cast<double>(value[i]);
    parts[p] += v * v;
  }
  return ((parts[0] + parts[1]) + (parts[2] + parts[3])) +
         ((parts[4] + parts[5]) + (parts[6] + parts[7]));
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
  return is_double(values) ? sum_rows<double>(values) : sum_rows<float>(values);
}

double sum_of_squares(const at::Tensor& values) {
  return is_double(values) ? sum_squares<double>(values) : sum_squares<float>(values);
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

}  // namespace thresher::sae
