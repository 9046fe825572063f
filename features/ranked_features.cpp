#include "features/ranked_features.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "features/statistics.h"

namespace thresher::features {
namespace {

constexpr std::int64_t kBlockFeatures = 1024;

}  // namespace

RankedFeatures::RankedFeatures(const at::Tensor& values) {
  const std::int64_t n = values.size(0), n_features = values.size(1);
  THRESHER_CHECK(n <= 4'000'000, "ranks stay exact in float32");
  const at::Tensor columns = values.t().to(at::kFloat).contiguous();
  ranks_ = at::empty({n_features, n}, at::kFloat);
  std::vector<double> column(static_cast<std::size_t>(n));
  for (std::int64_t feature = 0; feature < n_features; ++feature) {
    const float* source = columns.const_data_ptr<float>() + feature * n;
    std::copy(source, source + n, column.begin());
    const std::vector<double> ranks = midranks(column);
    std::copy(ranks.begin(), ranks.end(), ranks_.data_ptr<float>() + feature * n);
    tie_terms_.push_back(tie_term(ranks));
  }
}

at::Tensor RankedFeatures::aurocs(const at::Tensor& labels) const {
  const at::Tensor y = labels.to(at::kDouble);
  const at::Tensor n_positive = y.sum(0), n_negative = static_cast<double>(y.size(0)) - n_positive;
  std::vector<at::Tensor> blocks;
  for (std::int64_t first = 0; first < n_features(); first += kBlockFeatures) {
    const std::int64_t size = std::min(kBlockFeatures, n_features() - first);
    blocks.push_back(at::matmul(ranks_.narrow(0, first, size).to(at::kDouble), y));
  }
  // 0 / 0 where a group is empty
  return (at::cat(blocks) - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative);
}

std::vector<double> RankedFeatures::aurocs(std::span<const std::uint8_t> is_positive) const {
  at::Tensor labels = at::empty({static_cast<std::int64_t>(is_positive.size()), 1}, at::kDouble);
  std::copy(is_positive.begin(), is_positive.end(), labels.data_ptr<double>());
  const at::Tensor out = aurocs(labels).contiguous();
  return {out.const_data_ptr<double>(), out.const_data_ptr<double>() + out.numel()};
}

std::vector<std::int64_t> best_features(std::span<const double> aurocs, std::int64_t n,
                                        bool either_side) {
  const auto quality = [&](std::int64_t i) {
    const double above = aurocs[static_cast<std::size_t>(i)] - 0.5;
    return std::isnan(above) ? 0 : either_side ? std::abs(above) : above;
  };
  std::vector<std::int64_t> order(aurocs.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  const auto count =
      static_cast<std::ptrdiff_t>(std::min<std::size_t>(order.size(), static_cast<std::size_t>(n)));
  std::partial_sort(order.begin(), order.begin() + count, order.end(),
                    [&](std::int64_t a, std::int64_t b) {
                      return quality(a) != quality(b) ? quality(a) > quality(b) : a < b;
                    });
  order.resize(static_cast<std::size_t>(count));
  return order;
}

}  // namespace thresher::features
