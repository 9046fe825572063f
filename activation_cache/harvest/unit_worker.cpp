#include "activation_cache/harvest/unit_worker.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "activation_cache/harvest/drop_rules.h"
#include "activation_cache/harvest/harvest_plan.h"
#include "activation_cache/publish.h"
#include "core/error.h"
#include "core/random.h"
#include "core/stop_signal.h"

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

UnitWorker::UnitWorker(std::filesystem::path dir, CacheIdentity identity, bool are_limits_known,
                       const corpus::PackedContexts& contexts, const corpus::Tokenizer& tokenizer,
                       host_model::HostModel& model, int rank)
    : dir_(std::move(dir)),
      identity_(std::move(identity)),
      are_limits_known_(are_limits_known),
      contexts_(contexts),
      tokenizer_(tokenizer),
      model_(model),
      rank_(rank),
      hooks_(parse_hook_points(identity_)),
      buffer_(identity_),
      log_(dir_, rank) {}

void UnitWorker::run(const std::vector<std::int64_t>& units, Pulse& pulse,
                     const std::function<void()>& after_pass) {
  for (const std::int64_t unit : units) {
    buffer_.begin(unit);
    if (!fill_buffer(pulse, after_pass) || !settle_limits(pulse)) return;
    publish_unit(dir_, identity_, select_rows(), rank_, log_);
  }
}

bool UnitWorker::fill_buffer(Pulse& pulse, const std::function<void()>& after_pass) {
  const UnitRange range = identity_.unit_range(buffer_.unit());
  for (std::int64_t done = 0; done < range.n_contexts; done += identity_.forward_contexts) {
    if (stop_requested()) pulse.request_stop();
    if (pulse.should_leave()) return false;
    const std::int64_t n = std::min(identity_.forward_contexts, range.n_contexts - done);
    host_model::ForwardRequest request;
    for (std::size_t hook = 0; hook < hooks_.size(); ++hook) {
      request.hooks[hooks_[hook]] = [&, hook](const at::Tensor& activation) {
        THRESHER_CHECK(activation.size(0) == n * identity_.context_tokens, "one row a token");
        buffer_.store(hook, done * identity_.context_tokens, activation);
        return at::Tensor();
      };
    }
    model_.forward(token_batch(range.first_context + done, n), request);
    pulse.add_tokens(n * identity_.context_tokens);
    after_pass();
  }
  return true;
}

bool UnitWorker::settle_limits(Pulse& pulse) {
  if (are_limits_known_) return true;
  if (buffer_.unit() == 0) {
    identity_.norm_limits = find_limits();
    write_identity(dir_, identity_);
    failpoint(failpoints::kIdentityWritten);
    pulse.announce(identity_.norm_limits);
  } else {
    const std::optional<std::vector<double>> limits = pulse.wait_for_announcement();
    if (!limits) return false;
    identity_.norm_limits = *limits;
  }
  are_limits_known_ = true;
  return true;
}

std::vector<double> UnitWorker::find_limits() const {
  const std::int64_t n_positions = identity_.unit_range(0).n_contexts * identity_.context_tokens;
  std::vector<double> limits;
  for (std::size_t hook = 0; hook < hooks_.size(); ++hook) {
    std::vector<double> norms;
    for (std::int64_t i = 0; i < n_positions; ++i) {
      if (contexts_.positions[i] > 0) norms.push_back(buffer_.norm(hook, i));
    }
    if (norms.empty()) {
      throw ConfigError(
          "cache.drop_norm_above: the first unit has no position but first ones to take a median "
          "of",
          "contexts of at least 2 tokens", "raise corpus.context_tokens, or set it to 0");
    }
    limits.push_back(identity_.drop_norm_above * median(norms));
  }
  return limits;
}

ShardContent UnitWorker::select_rows() const {
  const UnitRange range = identity_.unit_range(buffer_.unit());
  const std::int64_t first = range.first_context * identity_.context_tokens;
  const std::int64_t n_positions = range.n_contexts * identity_.context_tokens;
  ShardContent content;
  content.unit = buffer_.unit();
  for (std::size_t hook = 0; hook < hooks_.size(); ++hook) {
    content.activations.push_back(buffer_.encoded(hook));
  }
  content.token_ids = std::span(contexts_.token_ids).subspan(first, n_positions);
  content.documents = std::span(contexts_.documents).subspan(first, n_positions);
  const DropRules rules(identity_.drop_first_positions, identity_.drop_special_tokens,
                        identity_.norm_limits, tokenizer_);
  std::vector<std::int64_t> kept;
  for (std::int64_t i = 0; i < n_positions; ++i) {
    const auto norm = [&](std::size_t hook) { return buffer_.norm(hook, i); };
    switch (rules.reason(content.token_ids[i], contexts_.positions[first + i], norm)) {
      case DropReason::kKept:
        buffer_.check_fits(i);
        kept.push_back(i);
        break;
      case DropReason::kFirst:
        ++content.dropped.first;
        break;
      case DropReason::kSpecial:
        ++content.dropped.special;
        break;
      case DropReason::kNorm:
        ++content.dropped.norm;
        break;
    }
  }
  if (kept.empty()) return content;
  const Permutation order(kept.size(), identity_.seed, fmt::format("cache.rows.{}", content.unit));
  for (std::size_t i = 0; i < kept.size(); ++i) content.rows.push_back(kept[order(i)]);
  return content;
}

host_model::TokenBatch UnitWorker::token_batch(std::int64_t first_context,
                                               std::int64_t n_contexts) const {
  const auto slice = [&](const std::vector<std::int32_t>& values) {
    return to_tensor(values, first_context, n_contexts, identity_.context_tokens);
  };
  return {slice(contexts_.token_ids), slice(contexts_.positions), slice(contexts_.documents)};
}

}  // namespace thresher::activation_cache
