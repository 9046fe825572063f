#include "activation_cache/harvest/own_units.h"

#include <algorithm>

#include "core/error.h"

namespace thresher::activation_cache {

OwnUnits::OwnUnits(const CacheIdentity& identity, const OwnActivations& rows)
    : identity_(identity), rows_(rows) {
  THRESHER_CHECK(identity.context_tokens == 1, "a context is one row");
}

bool OwnUnits::fill(UnitBuffer& buffer, const FillProgress& progress) {
  const UnitRange range = identity_.unit_range(buffer.unit());
  first_row_ = range.first_context;
  token_ids_.resize(static_cast<std::size_t>(range.n_contexts));
  documents_.resize(token_ids_.size());
  rows_.read_token_ids(first_row_, token_ids_);
  rows_.read_documents(first_row_, documents_);
  is_held_out_.resize(documents_.size());
  std::transform(documents_.begin(), documents_.end(), is_held_out_.begin(),
                 [&](std::int32_t document) {
                   return static_cast<std::uint8_t>(rows_.is_held_out(document));
                 });
  for (std::int64_t done = 0; done < range.n_contexts; done += identity_.forward_contexts) {
    if (!progress.may_go_on()) return false;
    const std::int64_t n = std::min(identity_.forward_contexts, range.n_contexts - done);
    for (std::size_t hook = 0; hook < identity_.hook_points.size(); ++hook) {
      piece_.resize(static_cast<std::size_t>(n * identity_.hook_points[hook].d_in));
      rows_.read(hook, first_row_ + done, piece_);
      buffer.store(hook, done, piece_);
    }
    progress.piece_done(n);
  }
  return true;
}

DropReason OwnUnits::drop_reason(std::int64_t position) const {
  return is_held_out_[static_cast<std::size_t>(position)] != 0 ? DropReason::kHeldOut
                                                               : DropReason::kKept;
}

bool OwnUnits::counts_for_median(std::int64_t position) const {
  return is_held_out_[static_cast<std::size_t>(position)] == 0;
}

std::string OwnUnits::complaint(std::size_t hook, std::int64_t position,
                                std::string_view problem) const {
  std::string text = rows_.place(hook, first_row_ + position);
  return text.append(": ").append(problem);
}

}  // namespace thresher::activation_cache
