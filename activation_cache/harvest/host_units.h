#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "activation_cache/cache_format.h"
#include "activation_cache/harvest/unit_source.h"
#include "corpus/corpus.h"
#include "host_model/host_model.h"

namespace thresher::activation_cache {

/// Positions of packed text, as a host model sees them. Everything is borrowed.
class HostUnits final : public UnitSource {
 public:
  HostUnits(const CacheIdentity& identity, const corpus::PackedContexts& contexts,
            const corpus::Tokenizer& tokenizer, host_model::HostModel& model);
  bool fill(UnitBuffer& buffer, const FillProgress& progress) override;
  std::span<const std::int32_t> token_ids() const override { return of_unit(contexts_.token_ids); }
  std::span<const std::int32_t> documents() const override { return of_unit(contexts_.documents); }
  DropReason drop_reason(std::int64_t position) const override;
  bool counts_for_median(std::int64_t position) const override;
  std::string complaint(std::size_t hook, std::int64_t position,
                        std::string_view problem) const override;

 private:
  host_model::TokenBatch token_batch(std::int64_t first_context, std::int64_t n_contexts) const;
  std::span<const std::int32_t> of_unit(const std::vector<std::int32_t>& values) const;

  const CacheIdentity& identity_;
  const corpus::PackedContexts& contexts_;
  host_model::HostModel& model_;
  DropRules rules_;
  std::vector<host_model::HookPoint> hooks_;
  std::int64_t unit_ = 0;
};

}  // namespace thresher::activation_cache
