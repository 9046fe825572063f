#include "features/context_run.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/error.h"

namespace thresher::features {
namespace {

using activation_cache::DropReason;
using host_model::HookPoint;
using Site = HookPoint::Site;

constexpr std::int64_t kTokensPerBatch = 4096;

std::vector<HookPoint> kept_points(std::int64_t n_blocks) {
  std::vector<HookPoint> points = {{Site::kEmbed, -1}, {Site::kFinalNormalized, -1}};
  for (std::int64_t block = 0; block < n_blocks; ++block) {
    for (const Site site : {Site::kResidPre, Site::kAttnOut, Site::kResidMid, Site::kMlpOut}) {
      points.push_back({site, block});
    }
  }
  points.push_back({Site::kResidPost, n_blocks - 1});
  return points;
}

std::vector<DropReason> drop_reasons(const ContextRun& run, const Subject& subject) {
  const auto& rules = subject.rules;
  const activation_cache::DropRules drop_rules(
      rules.cache.drop_first_positions, rules.cache.drop_special_tokens,
      rules.cache.drop_norm_above > 0 ? rules.norm_limits : std::vector<double>{},
      *subject.tokenizer);
  std::vector<at::Tensor> watched;
  for (const std::string& name : rules.cache.hook_points) {
    watched.push_back(run.at(HookPoint::parse(name)));
  }
  std::vector<DropReason> reasons;
  for (std::size_t place = 0; place < run.ids.size(); ++place) {
    reasons.push_back(
        drop_rules.reason(run.ids[place], static_cast<std::int64_t>(place), [&](std::size_t hook) {
          const auto width = static_cast<std::size_t>(watched[hook].size(1));
          return activation_cache::row_norm(
              {watched[hook].const_data_ptr<float>() + place * width, width});
        }));
  }
  return reasons;
}

/// Several runs that go through the blocks together, each joining at the block of its replacement.
class ReplacedRuns {
 public:
  ReplacedRuns(const ContextRun& run, const std::vector<Replacement>& replacements,
               host_model::HostModel& model)
      : run_(run), model_(model), n_blocks_(model.info().n_blocks) {
    const std::int64_t n = run.n_tokens();
    for (std::size_t i = 0; i < replacements.size(); ++i) {
      THRESHER_CHECK(
          replacements[i].activation.dim() == 2 && replacements[i].activation.size(0) == n,
          "a replacement is one context");
      const HookPoint point = canonical(replacements[i].point, n_blocks_);
      const bool is_final = point.site == Site::kFinalNormalized;
      joining_[is_final ? n_blocks_ : point.block].push_back(
          {i, point, replacements[i].activation});
    }
    finals_.resize(replacements.size());
  }

  at::Tensor finals() {
    for (auto at = joining_.begin(); at != joining_.end(); ++at) {
      const auto next = std::next(at);
      if (at->first == n_blocks_) {
        for (const Member& member : at->second) {
          finals_[member.index] = member.activation.to(run_.final_normalized.device());
        }
      } else {
        advance(at->first, at->second,
                next == joining_.end() || next->first == n_blocks_ ? n_blocks_ : next->first);
      }
    }
    return at::cat(finals_);
  }

 private:
  struct Member {
    std::size_t index;  // among the replacements
    HookPoint point;
    at::Tensor activation;
  };

  /// From block `from`, where `members` join, to the residual stream before block `to` or the end.
  void advance(std::int64_t from, const std::vector<Member>& members, std::int64_t to) {
    const std::int64_t n = run_.n_tokens();
    std::vector<at::Tensor> parts;
    if (stream_.defined()) parts.push_back(stream_);
    std::map<HookPoint, std::vector<std::pair<std::int64_t, at::Tensor>>> replaced;
    for (const Member& member : members) {
      const bool is_stream = member.point.site == Site::kResidPre;
      const at::Tensor& start = is_stream ? member.activation : run_.at({Site::kResidPre, from});
      parts.push_back(start.to(run_.final_normalized.device()));
      const auto place = n * static_cast<std::int64_t>(order_.size());
      if (!is_stream) replaced[member.point].emplace_back(place, member.activation);
      order_.push_back(member.index);
    }
    host_model::ForwardRequest request;
    request.first_block = from;
    request.resid_pre = at::cat(parts);
    for (const auto& [point, rows] : replaced) {
      request.hooks[point] = [rows = rows, n](const at::Tensor& activation) {
        at::Tensor out = activation.clone();
        for (const auto& [place, replacement] : rows) out.narrow(0, place, n).copy_(replacement);
        return out;
      };
    }
    request.want_final = to == n_blocks_;
    if (!request.want_final) {
      request.hooks[{Site::kResidPre, to}] = [this](const at::Tensor& activation) {
        stream_ = activation.clone();
        return at::Tensor();
      };
    }
    const at::Tensor finals =
        model_.forward(repeated(run_.batch, static_cast<std::int64_t>(order_.size())), request);
    if (!request.want_final) return;
    for (std::size_t i = 0; i < order_.size(); ++i) {
      finals_[order_[i]] = finals.narrow(0, static_cast<std::int64_t>(i) * n, n);
    }
  }

  const ContextRun& run_;
  host_model::HostModel& model_;
  std::int64_t n_blocks_;
  std::map<std::int64_t, std::vector<Member>> joining_;  // by block; n_blocks: after the last norm
  std::vector<std::size_t> order_;                       // indices of the runs under way
  at::Tensor stream_;                                    // their residual streams
  std::vector<at::Tensor> finals_;
};

}  // namespace

HookPoint canonical(const HookPoint& point, std::int64_t n_blocks) {
  if (point.site == Site::kEmbed) return {Site::kResidPre, 0};
  const bool meets = point.site == Site::kResidPost && point.block + 1 < n_blocks;
  return meets ? HookPoint{Site::kResidPre, point.block + 1} : point;
}

const at::Tensor& ContextRun::at(const HookPoint& point) const {
  const auto found = activations.find(point);
  if (found != activations.end()) return found->second;
  const auto next = activations.find({Site::kResidPre, point.block + 1});
  THRESHER_CHECK(point.site == Site::kResidPost && next != activations.end(),
                 fmt::format("{} is no hook point of the model", point.name()));
  return next->second;
}

std::vector<std::int64_t> ContextRun::positions(bool with_sinks) const {
  std::vector<std::int64_t> out;
  for (std::size_t place = 0; place < dropped.size(); ++place) {
    if (with_sinks || dropped[place] == DropReason::kKept) {
      out.push_back(static_cast<std::int64_t>(place));
    }
  }
  return out;
}

std::vector<std::int32_t> context_ids(std::string_view text, std::string_view what,
                                      const Subject& subject) {
  std::vector<std::int32_t> ids = subject.tokenizer->encode(text);
  if (ids.empty()) {
    throw ConfigError(fmt::format("{}: the text has no tokens", what),
                      "at least one character that the vocabulary knows");
  }
  if (subject.rules.corpus.prepend_bos == "document") {
    ids.insert(ids.begin(), subject.tokenizer->bos_id().value());
  }
  const std::int64_t most =
      std::min(subject.rules.corpus.context_tokens, subject.model->info().max_context_tokens);
  if (static_cast<std::int64_t>(ids.size()) > most) {
    throw ConfigError(fmt::format("{}: the text has {} tokens", what, ids.size()),
                      fmt::format("at most {}, a context of the subject", most));
  }
  return ids;
}

ContextRun run_context(const std::vector<std::int32_t>& ids, Subject& subject) {
  ContextRun run;
  run.ids = ids;
  for (const std::int32_t id : ids) run.tokens.push_back(subject.tokenizer->decode({&id, 1}));
  const std::int64_t n = run.n_tokens();
  run.batch.token_ids = at::tensor(ids, at::kLong).unsqueeze(0);
  run.batch.positions = at::arange(n, at::kLong).unsqueeze(0);
  run.batch.documents = at::zeros({1, n}, at::kLong);
  host_model::ForwardRequest request;
  request.want_final = true;
  for (const HookPoint& point : kept_points(subject.model->info().n_blocks)) {
    request.hooks[point] = [&run, point](const at::Tensor& activation) {
      run.activations[point] = activation.to(at::kCPU, at::kFloat).clone().contiguous();
      return at::Tensor();
    };
  }
  run.final_normalized = subject.model->forward(run.batch, request);
  run.dropped = drop_reasons(run, subject);
  return run;
}

host_model::TokenBatch repeated(const host_model::TokenBatch& batch, std::int64_t n) {
  const auto repeat = [n](const at::Tensor& one) { return one.repeat({n, 1}); };
  return {repeat(batch.token_ids), repeat(batch.positions), repeat(batch.documents)};
}

std::int64_t runs_per_batch(const ContextRun& run) {
  return std::max<std::int64_t>(1, kTokensPerBatch / run.n_tokens());
}

at::Tensor run_replaced(const ContextRun& run, const std::vector<Replacement>& replacements,
                        host_model::HostModel& model) {
  return ReplacedRuns(run, replacements, model).finals();
}

}  // namespace thresher::features
