#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "activation_cache/harvest/drop_rules.h"
#include "activation_cache/harvest/unit_buffer.h"

namespace thresher::activation_cache {

/// What a source asks and tells while it fills a unit.
struct FillProgress {
  std::function<bool()> may_go_on;                 // asked before each piece of work
  std::function<void(std::int64_t n)> piece_done;  // positions of the piece
};

/// Where the positions of a cache come from: a text that a host model reads (host_units.h), or
/// matrices that somebody brings (own_units.h). One a rank; the same unit is the same on every
/// rank.
class UnitSource {
 public:
  virtual ~UnitSource() = default;
  /// Stores every position of buffer.unit() at every hook point, piece by piece. False when it was
  /// told to leave before the end.
  virtual bool fill(UnitBuffer& buffer, const FillProgress& progress) = 0;

  // Of the unit that was filled last, one entry a position.
  virtual std::span<const std::int32_t> token_ids() const = 0;
  virtual std::span<const std::int32_t> documents() const = 0;
  /// The rule that drops a position whatever its activation, or kKept.
  virtual DropReason drop_reason(std::int64_t position) const = 0;
  /// Whether it counts for the median norm that limits follow from.
  virtual bool counts_for_median(std::int64_t position) const = 0;
  /// First line of an error about a position: where it is and what is wrong with it.
  virtual std::string complaint(std::size_t hook, std::int64_t position,
                                std::string_view problem) const = 0;
};

}  // namespace thresher::activation_cache
