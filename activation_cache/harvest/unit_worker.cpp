#include "activation_cache/harvest/unit_worker.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "activation_cache/harvest/drop_rules.h"
#include "activation_cache/publish.h"
#include "core/error.h"
#include "core/random.h"
#include "core/stop_signal.h"

namespace thresher::activation_cache {

UnitWorker::UnitWorker(std::filesystem::path dir, CacheIdentity identity, bool are_limits_known,
                       const MakeSource& make_source, int rank)
    : dir_(std::move(dir)),
      identity_(std::move(identity)),
      are_limits_known_(are_limits_known),
      source_(make_source(identity_)),
      rank_(rank),
      buffer_(identity_,
              [this](std::size_t hook, std::int64_t position, std::string_view problem) {
                return source_->complaint(hook, position, problem);
              }),
      log_(dir_, rank) {}

void UnitWorker::run(const std::vector<std::int64_t>& units, Pulse& pulse,
                     const std::function<void()>& after_pass) {
  pulse.begin_work();
  for (const std::int64_t unit : units) {
    buffer_.begin(unit);
    if (!fill_buffer(pulse, after_pass) || !settle_limits(pulse)) return;
    publish_unit(dir_, identity_, select_rows(), rank_, log_);
  }
}

bool UnitWorker::fill_buffer(Pulse& pulse, const std::function<void()>& after_pass) {
  FillProgress progress;
  progress.may_go_on = [&] {
    if (stop_requested()) pulse.request_stop();
    return !pulse.should_leave();
  };
  progress.piece_done = [&](std::int64_t n) {
    pulse.add_tokens(n);
    after_pass();
  };
  return source_->fill(buffer_, progress);
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
  for (std::size_t hook = 0; hook < identity_.hook_points.size(); ++hook) {
    std::vector<double> norms;
    for (std::int64_t i = 0; i < n_positions; ++i) {
      if (source_->counts_for_median(i)) norms.push_back(buffer_.norm(hook, i));
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

DropReason UnitWorker::drop_reason(std::int64_t position) const {
  const DropReason reason = source_->drop_reason(position);
  if (reason != DropReason::kKept) return reason;
  for (std::size_t hook = 0; hook < identity_.norm_limits.size(); ++hook) {
    if (!(buffer_.norm(hook, position) <= identity_.norm_limits[hook])) return DropReason::kNorm;
  }
  return DropReason::kKept;
}

ShardContent UnitWorker::select_rows() const {
  const UnitRange range = identity_.unit_range(buffer_.unit());
  const std::int64_t n_positions = range.n_contexts * identity_.context_tokens;
  ShardContent content;
  content.unit = buffer_.unit();
  for (std::size_t hook = 0; hook < identity_.hook_points.size(); ++hook) {
    content.activations.push_back(buffer_.encoded(hook));
  }
  content.token_ids = source_->token_ids();
  content.documents = source_->documents();
  std::vector<std::int64_t> kept;
  for (std::int64_t i = 0; i < n_positions; ++i) {
    switch (drop_reason(i)) {
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
      case DropReason::kHeldOut:
        ++content.dropped.held_out;
        break;
    }
  }
  if (kept.empty()) return content;
  const Permutation order(kept.size(), identity_.seed, fmt::format("cache.rows.{}", content.unit));
  for (std::size_t i = 0; i < kept.size(); ++i) content.rows.push_back(kept[order(i)]);
  return content;
}

}  // namespace thresher::activation_cache
