#include "activation_cache/harvest/drop_rules.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "activation_cache/harvest/harvest.h"
#include "core/error.h"

namespace thresher::activation_cache {

DropRules::DropRules(std::int64_t first_positions, bool drops_special,
                     std::vector<double> norm_limits, const corpus::Tokenizer& tokenizer)
    : first_positions_(first_positions),
      drops_special_(drops_special),
      norm_limits_(std::move(norm_limits)),
      tokenizer_(&tokenizer) {}

double row_norm(std::span<const float> row) {
  double sum = 0;
  for (const float value : row) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum);
}

double median(std::vector<double>& values) {
  THRESHER_CHECK(!values.empty(), "a median needs values");
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*std::max_element(values.begin(), middle) + *middle) / 2;
}

std::vector<std::uint8_t> kept_positions(const CacheConfig& config,
                                         const corpus::Tokenizer& tokenizer,
                                         const at::Tensor& token_ids, const at::Tensor& positions,
                                         const std::vector<at::Tensor>& activations,
                                         const std::vector<double>& norm_limits) {
  THRESHER_CHECK(norm_limits.empty() || norm_limits.size() == activations.size(),
                 "one norm limit a hook point");
  const DropRules rules(config.drop_first_positions, config.drop_special_tokens,
                        config.drop_norm_above > 0 ? norm_limits : std::vector<double>{},
                        tokenizer);
  const at::Tensor ids = token_ids.to(at::kCPU, at::kLong).contiguous();
  const at::Tensor places = positions.to(at::kCPU, at::kLong).contiguous();
  std::vector<at::Tensor> rows;
  for (const at::Tensor& activation : activations) {
    THRESHER_CHECK(activation.dim() == 2 && activation.size(0) == ids.numel(),
                   "one row of activations a token");
    rows.push_back(activation.to(at::kCPU, at::kFloat).contiguous());
  }
  std::vector<std::uint8_t> kept(static_cast<std::size_t>(ids.numel()));
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    const auto norm = [&](std::size_t hook) {
      const auto width = static_cast<std::size_t>(rows[hook].size(1));
      const float* row = rows[hook].const_data_ptr<float>() + static_cast<std::size_t>(i) * width;
      return row_norm({row, width});
    };
    const auto id = static_cast<std::int32_t>(ids.const_data_ptr<std::int64_t>()[i]);
    const std::int64_t place = places.const_data_ptr<std::int64_t>()[i];
    kept[i] = rules.reason(id, place, norm) == DropReason::kKept ? 1 : 0;
  }
  return kept;
}

}  // namespace thresher::activation_cache
