#include "host_model/kv_cache.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace thresher::host_model {
namespace {

at::Tensor with_room(const at::Tensor& held, const at::Tensor& fresh, std::int64_t filled,
                     std::int64_t capacity) {
  at::Tensor out =
      at::empty({fresh.size(0), fresh.size(1), capacity, fresh.size(3)}, fresh.options());
  if (filled > 0) out.narrow(2, 0, filled).copy_(held.narrow(2, 0, filled));
  return out;
}

}  // namespace

KvCache KvCache::select(const at::Tensor& contexts) const {
  KvCache out(expected_tokens_);
  if (!documents_.defined()) return out;
  out.n_tokens_ = n_tokens_;
  out.n_filled_ = n_filled_;
  out.documents_ = documents_.index_select(0, contexts);
  out.positions_ = positions_.index_select(0, contexts);
  for (const Rows& block : blocks_) {
    if (!block.keys.defined()) {
      out.blocks_.emplace_back();
      continue;
    }
    const at::Tensor chosen = contexts.to(block.keys.device());
    out.blocks_.push_back(
        {block.keys.index_select(0, chosen), block.values.index_select(0, chosen)});
  }
  return out;
}

void KvCache::begin_pass(const at::Tensor& documents, const at::Tensor& positions) {
  if (!documents_.defined()) {
    documents_ = documents.clone();
    positions_ = positions.clone();
  } else {
    THRESHER_CHECK(
        documents.size(0) == n_contexts(),
        fmt::format("a pass over {} contexts with a cache of {}", documents.size(0), n_contexts()));
    documents_ = at::cat({documents_, documents}, 1);
    positions_ = at::cat({positions_, positions}, 1);
  }
  n_tokens_ = documents_.size(1);
}

KvCache::Rows KvCache::append(std::int64_t block, const Rows& fresh) {
  const auto index = static_cast<std::size_t>(block);
  if (blocks_.size() <= index) {
    blocks_.resize(index + 1);
    n_filled_.resize(index + 1, 0);
  }
  const std::int64_t filled = n_filled_[index];
  THRESHER_CHECK(filled + fresh.keys.size(2) == n_tokens_,
                 fmt::format("block {} has {} tokens in the cache and gets {}, the context has {}",
                             block, filled, fresh.keys.size(2), n_tokens_));
  Rows& held = blocks_[index];
  if (!held.keys.defined() || held.keys.size(2) < n_tokens_) {
    const std::int64_t capacity =
        std::max(expected_tokens_, filled == 0 ? n_tokens_ : n_tokens_ + n_tokens_ / 2);
    held = {with_room(held.keys, fresh.keys, filled, capacity),
            with_room(held.values, fresh.values, filled, capacity)};
  }
  held.keys.narrow(2, filled, fresh.keys.size(2)).copy_(fresh.keys);
  held.values.narrow(2, filled, fresh.values.size(2)).copy_(fresh.values);
  n_filled_[index] = n_tokens_;
  return {held.keys.narrow(2, 0, n_tokens_), held.values.narrow(2, 0, n_tokens_)};
}

}  // namespace thresher::host_model
