#include "features/continuations.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/visible_text.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;
using host_model::PassRows;

constexpr std::int64_t kPromptTokensInAPass = 2048;
constexpr std::int64_t kContinuationTokensInAPass = 4096;

at::Tensor repeated(const at::Tensor& rows, std::int64_t times) {
  return rows.repeat_interleave(times, 0);
}

host_model::HookFunction keep(at::Tensor& place) {
  return [&place](const at::Tensor& activation) {
    place = activation.clone();
    return at::Tensor();
  };
}

}  // namespace

ContinuationScorer::ContinuationScorer(const Subject& subject,
                                       std::vector<std::vector<std::int32_t>> prompts,
                                       const std::vector<Attribute>& attributes)
    : subject_(subject), prompts_(std::move(prompts)) {
  for (std::size_t i = 0; i < prompts_.size(); ++i) {
    if (prompts_[i].empty()) {
      throw ConfigError(fmt::format("prompt {} has no tokens", i), "at least one token");
    }
  }
  THRESHER_CHECK(!prompts_.empty(), "scores without prompts");
  rows_ = host_model::align_contexts(prompts_);
  read_continuations(attributes);
  std::vector<at::Tensor> next, of_continuations;
  for (const at::Tensor& some : at::arange(n_prompts(), at::kLong).split(contexts_in_a_pass())) {
    const auto [logs, sums] = run({some, 0, nullptr}, {});
    next.push_back(logs);
    of_continuations.push_back(sums);
  }
  plain_ = at::cat(next);
  plain_log_odds_ = log_odds(at::cat(of_continuations));
}

void ContinuationScorer::read_continuations(const std::vector<Attribute>& attributes) {
  std::vector<std::vector<std::int32_t>> all;
  for (const Attribute& one : attributes) {
    std::array<Side, 2> sides;
    for (std::size_t s = 0; s < 2; ++s) {
      const std::vector<std::string>& texts = s == 0 ? one.positive : one.negative;
      if (texts.empty()) {
        throw ConfigError(fmt::format("the attribute {} has no {} continuation",
                                      visible_text(one.name), s == 0 ? "positive" : "negative"),
                          "one or more");
      }
      sides[s] = {static_cast<std::int64_t>(all.size()), static_cast<std::int64_t>(texts.size())};
      for (const std::string& text : texts) {
        all.push_back(subject_.tokenizer->encode(text));
        if (!all.back().empty()) continue;
        throw ConfigError(fmt::format("the continuation \"{}\" of {} has no tokens",
                                      visible_text(text), visible_text(one.name)),
                          "a text that the vocabulary knows");
      }
    }
    sides_.push_back(sides);
  }
  std::vector<std::int64_t> firsts, multi;
  std::size_t longest = 1;
  for (std::size_t i = 0; i < all.size(); ++i) {
    firsts.push_back(all[i].front());
    longest = std::max(longest, all[i].size());
    if (all[i].size() > 1) multi.push_back(static_cast<std::int64_t>(i));
  }
  first_tokens_ = at::tensor(firsts, at::kLong);
  multi_ = at::tensor(multi, at::kLong);
  const auto n = static_cast<std::int64_t>(multi.size());
  const auto width = static_cast<std::int64_t>(longest) - 1;
  multi_ids_ = at::zeros({n, width}, at::kLong);
  multi_targets_ = at::zeros({n, width}, at::kLong);
  multi_documents_ = at::full({n, width}, -1, at::kLong);
  for (std::int64_t m = 0; m < n; ++m) {
    const auto& ids = all[static_cast<std::size_t>(multi[static_cast<std::size_t>(m)])];
    for (std::size_t t = 0; t + 1 < ids.size(); ++t) {
      const auto place = static_cast<std::int64_t>(t);
      multi_ids_[m][place] = static_cast<std::int64_t>(ids[t]);
      multi_targets_[m][place] = static_cast<std::int64_t>(ids[t + 1]);
      multi_documents_[m][place] = 0;
    }
  }
}

std::int64_t ContinuationScorer::contexts_in_a_pass() const {
  const std::int64_t by_prompt = kPromptTokensInAPass / rows_.batch.token_ids.size(1);
  const std::int64_t by_continuation =
      kContinuationTokensInAPass / std::max<std::int64_t>(1, multi_ids_.numel());
  return std::max<std::int64_t>(1, std::min(by_prompt, by_continuation));
}

PassRows ContinuationScorer::prompt_rows(const at::Tensor& prompts) const {
  PassRows rows;
  rows.batch = {rows_.batch.token_ids.index_select(0, prompts),
                rows_.batch.positions.index_select(0, prompts),
                rows_.batch.documents.index_select(0, prompts)};
  rows.prompts = at::arange(prompts.numel(), at::kLong);
  rows.prompt_tokens = rows_.prompt_tokens.index_select(0, prompts);
  return rows;
}

PassRows ContinuationScorer::continuation_rows(const PassRows& rows) const {
  const std::int64_t n = rows.prompts.numel(), multi = multi_.numel();
  PassRows out;
  out.is_first = false;
  out.prompts = repeated(rows.prompts, multi);
  out.prompt_tokens = repeated(rows.prompt_tokens, multi);
  const at::Tensor positions =
      out.prompt_tokens.unsqueeze(1) + at::arange(multi_ids_.size(1), at::kLong).unsqueeze(0);
  out.batch.token_ids = multi_ids_.repeat({n, 1});
  out.batch.documents = multi_documents_.repeat({n, 1});
  // Padding lies behind, where nothing sees it; its positions only have to exist.
  out.batch.positions = at::where(out.batch.documents.ge(0), positions, at::zeros_like(positions));
  return out;
}

const ContinuationScorer::Clean& ContinuationScorer::clean_state(std::int64_t block) {
  const auto known = clean_.find(block);
  if (known != clean_.end()) return known->second;
  const HookPoint start{HookPoint::Site::kResidPre, block};
  std::vector<at::Tensor> of_prompts, of_continuations;
  const std::int64_t d = subject_.model->info().d_model;
  for (const at::Tensor& some : at::arange(n_prompts(), at::kLong).split(contexts_in_a_pass())) {
    const PassRows rows = prompt_rows(some);
    host_model::KvCache cache;
    at::Tensor kept;
    host_model::ForwardRequest request;
    request.hooks[start] = keep(kept);
    request.cache = multi_.numel() > 0 ? &cache : nullptr;
    subject_.model->forward(rows.batch, request);
    of_prompts.push_back(kept.view({some.numel(), -1, d}));
    if (multi_.numel() == 0) continue;
    host_model::KvCache wide = cache.select(repeated(rows.prompts, multi_.numel()));
    request.cache = &wide;
    subject_.model->forward(continuation_rows(rows).batch, request);
    of_continuations.push_back(kept.view({some.numel(), multi_.numel(), -1, d}));
  }
  Clean& clean = clean_[block];
  clean.of_prompts = at::cat(of_prompts);
  if (multi_.numel() > 0) clean.of_continuations = at::cat(of_continuations);
  return clean;
}

std::pair<at::Tensor, at::Tensor> ContinuationScorer::run(
    const Chunk& chunk, const std::map<HookPoint, host_model::RowHook>& hooks) {
  const PassRows rows = prompt_rows(chunk.prompts);
  const std::int64_t n = chunk.prompts.numel(), d = subject_.model->info().d_model;
  host_model::KvCache cache;
  host_model::ForwardRequest request;
  request.want_final = true;
  request.first_block = chunk.first_block;
  request.cache = multi_.numel() > 0 ? &cache : nullptr;
  request.hooks = host_model::bind_hooks(hooks, rows);
  if (chunk.clean != nullptr) {
    request.resid_pre = chunk.clean->of_prompts.index_select(0, chunk.prompts).reshape({-1, d});
  }
  const at::Tensor final_rows = subject_.model->forward(rows.batch, request).view({n, -1, d});
  const at::Tensor logits = subject_.model->unembed(final_rows.select(1, final_rows.size(1) - 1));
  const at::Tensor next = at::log_softmax(logits.to(at::kCPU), 1);
  at::Tensor sums = next.index_select(1, first_tokens_).to(at::kDouble);
  if (multi_.numel() == 0) return {next, sums};

  const PassRows more = continuation_rows(rows);
  host_model::KvCache wide = cache.select(repeated(rows.prompts, multi_.numel()));
  request.cache = &wide;
  request.hooks = host_model::bind_hooks(hooks, more);
  if (chunk.clean != nullptr) {
    request.resid_pre =
        chunk.clean->of_continuations.index_select(0, chunk.prompts).reshape({-1, d});
  }
  const at::Tensor rest = subject_.model->forward(more.batch, request);
  const at::Tensor losses = host_model::next_token_losses(
      *subject_.model, rest, multi_targets_.repeat({n, 1}).reshape({-1}));
  const at::Tensor is_token = more.batch.documents.ge(0);
  const at::Tensor of_rest =
      -(losses.view(is_token.sizes()) * is_token).sum(1).view({n, multi_.numel()});
  sums.index_add_(1, multi_, of_rest);
  return {next, sums};
}

at::Tensor ContinuationScorer::log_odds(const at::Tensor& of_continuations) const {
  std::vector<at::Tensor> columns;
  for (const auto& sides : sides_) {
    const auto total = [&](const Side& side) {
      return at::logsumexp(of_continuations.narrow(1, side.first, side.count), {1});
    };
    columns.push_back(total(sides[0]) - total(sides[1]));
  }
  return columns.empty() ? at::zeros({of_continuations.size(0), 0}, at::kDouble)
                         : at::stack(columns, 1);
}

SettingScores ContinuationScorer::score(const SteeredSettings& settings) {
  const auto n_settings = static_cast<std::int64_t>(settings.values.size());
  const HookPoint& point = settings.base.point;
  Chunk chunk;
  if (point.block >= 0) {
    chunk.first_block = point.block;
    chunk.clean = &clean_state(point.block);
  }
  std::vector<at::Tensor> odds, divergences;
  SettingScores out;
  for (const at::Tensor& some :
       at::arange(n_settings * n_prompts(), at::kLong).split(contexts_in_a_pass())) {
    const at::Tensor setting = at::floor_divide(some, at::Scalar(n_prompts()));
    chunk.prompts = some.remainder(n_prompts());
    Intervention one = settings.base;
    if (settings.directions.defined()) one.direction = settings.directions.index_select(0, setting);
    one.values.clear();
    for (std::int64_t c = 0; c < some.numel(); ++c) {
      one.values.push_back(
          settings.values[static_cast<std::size_t>(setting[c].item<std::int64_t>())]);
    }
    Interventions interventions({one}, subject_.rules, *subject_.tokenizer, subject_.model->info());
    const auto [next, sums] = run(chunk, interventions.hooks());
    odds.push_back(log_odds(sums));
    const at::Tensor plain = plain_.index_select(0, chunk.prompts);
    divergences.push_back((next.exp() * (next - plain)).sum(1, false, at::kDouble));
    out.n_edited += interventions.n_edited();
    out.n_left_alone += interventions.n_left_alone();
  }
  out.log_odds = at::cat(odds).view({n_settings, n_prompts(), -1});
  out.kl = at::cat(divergences).view({n_settings, n_prompts()});
  return out;
}

at::Tensor ContinuationScorer::divergence(const ContinuationScorer& other) const {
  return (other.plain_.exp() * (other.plain_ - plain_)).sum(1, false, at::kDouble);
}

}  // namespace thresher::features
