#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "corpus/tokenizer.h"

namespace thresher::activation_cache {

/// Why a position is no row of the cache; the first rule that applies counts.
enum class DropReason : std::uint8_t { kKept, kFirst, kSpecial, kNorm, kHeldOut };

/// The rules of one cache, ready to be applied.
class DropRules {
 public:
  /// `norm_limits` one a hook point, or empty when the rule is off.
  DropRules(std::int64_t first_positions, bool drops_special, std::vector<double> norm_limits,
            const corpus::Tokenizer& tokenizer);
  /// `norm(hook)` is the norm of the position's activation there.
  template <class Norm>
  DropReason reason(std::int32_t token_id, std::int64_t position, Norm&& norm) const {
    if (position < first_positions_) return DropReason::kFirst;
    if (drops_special_ && tokenizer_->is_special(token_id)) return DropReason::kSpecial;
    for (std::size_t hook = 0; hook < norm_limits_.size(); ++hook) {
      if (!(norm(hook) <= norm_limits_[hook])) return DropReason::kNorm;  // NaN included
    }
    return DropReason::kKept;
  }

 private:
  std::int64_t first_positions_;
  bool drops_special_;
  std::vector<double> norm_limits_;
  const corpus::Tokenizer* tokenizer_;
};

/// Euclidean norm of a row, summed in order in float64: the same bits for any number of threads.
double row_norm(std::span<const float> row);

/// The middle value, or the mean of the two middle ones. `values` is reordered and must not be
/// empty.
double median(std::vector<double>& values);

}  // namespace thresher::activation_cache
