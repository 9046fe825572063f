#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "activation_cache/cache_format.h"
#include "activation_cache/harvest/unit_source.h"
#include "activation_cache/own_activations.h"

namespace thresher::activation_cache {

/// Rows of somebody's own matrices. A context is one row, so `context` in a shard is the number of
/// the row and `position` is 0. Held-out rows are dropped. Everything is borrowed.
class OwnUnits final : public UnitSource {
 public:
  OwnUnits(const CacheIdentity& identity, const OwnActivations& rows);
  bool fill(UnitBuffer& buffer, const FillProgress& progress) override;
  std::span<const std::int32_t> token_ids() const override { return token_ids_; }
  std::span<const std::int32_t> documents() const override { return documents_; }
  DropReason drop_reason(std::int64_t position) const override;
  bool counts_for_median(std::int64_t position) const override;
  std::string complaint(std::size_t hook, std::int64_t position,
                        std::string_view problem) const override;

 private:
  const CacheIdentity& identity_;
  const OwnActivations& rows_;
  std::int64_t first_row_ = 0;  // of the unit
  std::vector<std::int32_t> token_ids_, documents_;
  std::vector<std::uint8_t> is_held_out_;
  std::vector<float> piece_;
};

}  // namespace thresher::activation_cache
