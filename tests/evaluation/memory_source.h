#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "activation_cache/activation_source.h"
#include "core/random.h"

namespace thresher::testing {

/// Training rows of one hook point in memory; only what the baselines need.
class MemorySource : public activation_cache::ActivationSource {
 public:
  MemorySource(std::string hook_point, const at::Tensor& rows)
      : rows_(rows.contiguous()), hook_points_{{std::move(hook_point), rows.size(1)}} {
    const at::Tensor wide = rows_.to(at::kDouble);
    const at::Tensor mean = wide.mean(0);
    statistics_.n_rows = rows_.size(0);
    statistics_.mean.assign(mean.const_data_ptr<double>(),
                            mean.const_data_ptr<double>() + mean.numel());
    statistics_.mean_squared_norm = wide.square().sum(1).mean().item<double>();
    statistics_.mean_squared_deviation = (wide - mean).square().sum(1).mean().item<double>();
  }
  const std::vector<activation_cache::HookPointWidth>& hook_points() const override {
    return hook_points_;
  }
  Json identity() const override { return Json::object(); }
  const activation_cache::SourceStatistics& statistics(std::size_t) const override {
    return statistics_;
  }
  void sample_rows(std::size_t, std::uint64_t seed, std::int64_t n_rows,
                   std::span<float> out) override {
    const Permutation order(static_cast<std::uint64_t>(rows_.size(0)), seed, "tests.sample");
    for (std::int64_t i = 0; i < n_rows; ++i) {
      const auto row = static_cast<std::int64_t>(order(static_cast<std::uint64_t>(i)));
      const float* values = rows_.const_data_ptr<float>() + row * rows_.size(1);
      std::copy(values, values + rows_.size(1), out.begin() + i * rows_.size(1));
    }
  }
  void start(const activation_cache::BatchPlan&, std::int64_t, std::int64_t,
             std::int64_t) override {}
  std::int64_t steps_per_epoch() const override { return 0; }
  std::int64_t n_dropped_rows_per_epoch() const override { return 0; }
  void read(std::int64_t, std::int64_t, std::size_t, std::span<float>) override {}

 private:
  at::Tensor rows_;
  std::vector<activation_cache::HookPointWidth> hook_points_;
  activation_cache::SourceStatistics statistics_;
};

}  // namespace thresher::testing
