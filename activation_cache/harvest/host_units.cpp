#include "activation_cache/harvest/host_units.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "activation_cache/harvest/harvest_plan.h"
#include "core/error.h"

namespace thresher::activation_cache {

namespace {

at::Tensor to_tensor(const std::vector<std::int32_t>& values, std::int64_t first_context,
                     std::int64_t n_contexts, std::int64_t context_tokens) {
  at::Tensor tensor = at::empty({n_contexts, context_tokens}, at::kLong);
  const auto begin = values.begin() + first_context * context_tokens;
  std::copy(begin, begin + n_contexts * context_tokens, tensor.mutable_data_ptr<std::int64_t>());
  return tensor;
}

}  // namespace

HostUnits::HostUnits(const CacheIdentity& identity, const corpus::PackedContexts& contexts,
                     const corpus::Tokenizer& tokenizer, host_model::HostModel& model)
    : identity_(identity),
      contexts_(contexts),
      model_(model),
      rules_(identity.drop_first_positions, identity.drop_special_tokens, {}, tokenizer),
      hooks_(parse_hook_points(identity)) {}

bool HostUnits::fill(UnitBuffer& buffer, const FillProgress& progress) {
  unit_ = buffer.unit();
  const UnitRange range = identity_.unit_range(unit_);
  for (std::int64_t done = 0; done < range.n_contexts; done += identity_.forward_contexts) {
    if (!progress.may_go_on()) return false;
    const std::int64_t n = std::min(identity_.forward_contexts, range.n_contexts - done);
    host_model::ForwardRequest request;
    for (std::size_t hook = 0; hook < hooks_.size(); ++hook) {
      request.hooks[hooks_[hook]] = [&, hook](const at::Tensor& activation) {
        THRESHER_CHECK(activation.dim() == 2 &&
                           activation.size(0) == n * identity_.context_tokens &&
                           activation.size(1) == identity_.hook_points[hook].d_in,
                       "activations are [tokens, d_in]");
        const at::Tensor values = activation.to(at::kCPU, at::kFloat).contiguous();
        buffer.store(hook, done * identity_.context_tokens,
                     {values.const_data_ptr<float>(), static_cast<std::size_t>(values.numel())});
        return at::Tensor();
      };
    }
    model_.forward(token_batch(range.first_context + done, n), request);
    progress.piece_done(n * identity_.context_tokens);
  }
  return true;
}

DropReason HostUnits::drop_reason(std::int64_t position) const {
  return rules_.reason(token_ids()[position], of_unit(contexts_.positions)[position],
                       [](std::size_t) { return 0.0; });
}

bool HostUnits::counts_for_median(std::int64_t position) const {
  return of_unit(contexts_.positions)[position] > 0;
}

std::string HostUnits::complaint(std::size_t hook, std::int64_t position,
                                 std::string_view problem) const {
  const std::int64_t context =
      identity_.unit_range(unit_).first_context + position / identity_.context_tokens;
  return fmt::format("harvest: {}: {} (unit {}, context {}, position {})",
                     identity_.hook_points[hook].hook_point, problem, unit_, context,
                     position % identity_.context_tokens);
}

std::span<const std::int32_t> HostUnits::of_unit(const std::vector<std::int32_t>& values) const {
  const UnitRange range = identity_.unit_range(unit_);
  return std::span(values).subspan(range.first_context * identity_.context_tokens,
                                   range.n_contexts * identity_.context_tokens);
}

host_model::TokenBatch HostUnits::token_batch(std::int64_t first_context,
                                              std::int64_t n_contexts) const {
  const auto slice = [&](const std::vector<std::int32_t>& values) {
    return to_tensor(values, first_context, n_contexts, identity_.context_tokens);
  };
  return {slice(contexts_.token_ids), slice(contexts_.positions), slice(contexts_.documents)};
}

}  // namespace thresher::activation_cache
