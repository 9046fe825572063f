#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "activation_cache/activation_source.h"
#include "activation_cache/manifest.h"
#include "activation_cache/window_loader.h"

namespace thresher::activation_cache {

/// Batches from a complete cache (open_cache_source). Only hook points that are read are loaded.
class CacheSource : public ActivationSource {
 public:
  explicit CacheSource(const std::filesystem::path& dir);

  const std::vector<HookPointWidth>& hook_points() const override { return identity_.hook_points; }
  Json identity() const override;
  const SourceStatistics& statistics(std::size_t hook_index) const override;
  void sample_rows(std::size_t hook_index, std::uint64_t seed, std::int64_t n_rows,
                   std::span<float> out) override;
  void start(const BatchPlan& plan, std::int64_t first_step, std::int64_t first_lane,
             std::int64_t n_lanes) override;
  std::int64_t steps_per_epoch() const override;
  std::int64_t n_dropped_rows_per_epoch() const override;
  void read(std::int64_t step, std::int64_t lane, std::size_t hook_index,
            std::span<float> out) override;
  std::uint64_t bytes_requested() const override { return loader_statistics().bytes_requested; }

  LoaderStatistics loader_statistics() const;

 private:
  /// A block that sample_rows draws from; `first_row` counts over the sampled blocks laid end to
  /// end.
  struct SampledBlock {
    std::int64_t unit, number, first_row, n_rows;
  };
  std::vector<SampledBlock> sampled_blocks(std::uint64_t seed, std::int64_t n_rows) const;
  const BatchLayout& layout() const;

  CacheIdentity identity_;
  Json identity_json_;
  std::vector<SourceStatistics> statistics_;
  std::shared_ptr<ShardReader> shards_;
  BatchPlan plan_;
  std::shared_ptr<const BatchLayout> layout_;
  std::unique_ptr<WindowLoader> loader_;
};

}  // namespace thresher::activation_cache
