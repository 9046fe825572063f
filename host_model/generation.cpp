#include "host_model/generation.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <span>

#include "core/error.h"
#include "core/hash.h"
#include "core/random.h"

namespace thresher::host_model {
namespace {

/// Draws of a prompt, by position.
RandomStream draws_of(std::uint64_t seed, const Prompt& prompt) {
  const std::uint64_t text = xxh3_64(std::as_bytes(std::span(prompt.token_ids)));
  return {seed, fmt::format("host_model.generation.{:016x}.{}", text, prompt.sample)};
}

void check_prompts(const HostModelInfo& info, const GenerationRequest& request) {
  THRESHER_CHECK(request.temperature >= 0 && request.top_p > 0 && request.top_p <= 1 &&
                     request.batch_contexts > 0 && request.max_new_tokens >= 0,
                 "temperature >= 0, 0 < top_p <= 1, and contexts in a batch");
  for (std::size_t i = 0; i < request.prompts.size(); ++i) {
    const auto length = static_cast<std::int64_t>(request.prompts[i].token_ids.size());
    if (length == 0) {
      throw ConfigError(fmt::format("prompt {} has no tokens", i), "at least one token");
    }
    if (length >= info.max_context_tokens) {
      throw ConfigError(
          fmt::format("prompt {} has {} tokens, the model's context {}", i, length,
                      info.max_context_tokens),
          fmt::format("at most {} tokens, so that one can follow", info.max_context_tokens - 1));
    }
  }
}

/// Prompts that run together, and where each of them has got to.
class Batch {
 public:
  Batch(HostModel& model, const GenerationRequest& request, std::vector<std::size_t> prompts,
        std::vector<Generated>& results)
      : model_(model), request_(request), results_(results), alive_(std::move(prompts)) {}

  void run() {
    std::vector<std::vector<std::int32_t>> contexts;
    for (const std::size_t prompt : alive_) {
      contexts.push_back(request_.prompts[prompt].token_ids);
      streams_.push_back(draws_of(request_.seed, request_.prompts[prompt]));
    }
    rows_ = align_contexts(contexts);
    rows_.prompts = at::empty({static_cast<std::int64_t>(alive_.size())}, at::kLong);
    for (std::size_t c = 0; c < alive_.size(); ++c) {
      rows_.prompts[static_cast<std::int64_t>(c)] = static_cast<std::int64_t>(alive_[c]);
    }
    lengths_ = rows_.prompt_tokens.clone();
    done_.assign(alive_.size(), false);
    cache_ = KvCache(rows_.batch.token_ids.size(1) + request_.max_new_tokens);
    for (std::int64_t step = 0; step < request_.max_new_tokens; ++step) {
      const std::vector<std::int32_t> chosen = choose(read());
      take(chosen);
      if (!prepare_next(chosen)) return;
    }
  }

 private:
  /// Runs the pass; logits [contexts, n_vocabulary] of each context's last token.
  at::Tensor read() {
    ForwardRequest pass;
    pass.hooks = bind_hooks(request_.hooks, rows_);
    pass.want_final = true;
    pass.cache = &cache_;
    const at::Tensor final_rows = model_.forward(rows_.batch, pass);
    const std::int64_t tokens = rows_.batch.token_ids.size(1);
    const at::Tensor last = final_rows.view({-1, tokens, final_rows.size(1)}).select(1, tokens - 1);
    return model_.unembed(last).to(at::kCPU);
  }

  std::vector<std::int32_t> choose(const at::Tensor& logits) const {
    const at::Tensor is_finite = at::isfinite(logits).all(1);
    const at::Tensor most_probable = logits.argmax(1);
    std::vector<std::int32_t> chosen(alive_.size());
    for (std::size_t c = 0; c < alive_.size(); ++c) {
      const auto row = static_cast<std::int64_t>(c);
      if (done_[c]) continue;
      const std::int64_t position = lengths_[row].item<std::int64_t>();
      if (!is_finite[row].item<bool>()) {
        throw ConfigError(
            fmt::format("prompt {}: the logits of the token after position {} are not finite",
                        alive_[c], position - 1),
            "finite logits", "a smaller coefficient where the model is steered");
      }
      chosen[c] = request_.temperature == 0
                      ? static_cast<std::int32_t>(most_probable[row].item<std::int64_t>())
                      : pick_token(logits[row], request_.temperature, request_.top_p,
                                   streams_[c].uniform(static_cast<std::uint64_t>(position)));
    }
    return chosen;
  }

  void take(const std::vector<std::int32_t>& chosen) {
    const auto& stops = request_.stop_ids;
    lengths_.add_(1);
    for (std::size_t c = 0; c < alive_.size(); ++c) {
      if (done_[c]) continue;
      Generated& result = results_[alive_[c]];
      if (std::find(stops.begin(), stops.end(), chosen[c]) != stops.end()) {
        result.end = Generated::End::kStopToken;
        done_[c] = true;
        continue;
      }
      result.token_ids.push_back(chosen[c]);
      if (request_.on_token) request_.on_token(alive_[c], chosen[c]);
    }
  }

  /// Sets up the pass over the tokens that were chosen; false where no context goes on.
  bool prepare_next(const std::vector<std::int32_t>& chosen) {
    const std::int64_t limit = model_.info().max_context_tokens;
    bool is_any_full = false;
    std::vector<std::int64_t> going;
    for (std::size_t c = 0; c < alive_.size(); ++c) {
      // The token chosen last is at the position below its context's length; it must be read.
      const bool is_full = lengths_[static_cast<std::int64_t>(c)].item<std::int64_t>() >= limit;
      is_any_full = is_any_full || is_full;
      if (is_full && !done_[c]) results_[alive_[c]].end = Generated::End::kContextFull;
      done_[c] = done_[c] || is_full;
      if (!done_[c]) going.push_back(static_cast<std::int64_t>(c));
    }
    if (going.empty()) return false;
    rows_.is_first = false;
    const auto n = static_cast<std::int64_t>(alive_.size());
    rows_.batch.token_ids = at::empty({n, 1}, at::kLong);
    for (std::int64_t c = 0; c < n; ++c)
      rows_.batch.token_ids[c][0] = static_cast<std::int64_t>(chosen[static_cast<std::size_t>(c)]);
    rows_.batch.positions = (lengths_ - 1).unsqueeze(1).contiguous();
    rows_.batch.documents = at::zeros({n, 1}, at::kLong);
    // Copying the cache costs about as much as a pass, so ended contexts are carried on for a
    // while.
    if (is_any_full || 4 * going.size() <= 3 * alive_.size()) keep(going);
    return true;
  }

  void keep(const std::vector<std::int64_t>& going) {
    const at::Tensor chosen = at::tensor(going, at::kLong);
    cache_ = cache_.select(chosen);
    for (at::Tensor* part : {&rows_.batch.token_ids, &rows_.batch.positions, &rows_.batch.documents,
                             &rows_.prompts, &rows_.prompt_tokens, &lengths_}) {
      *part = part->index_select(0, chosen);
    }
    std::vector<std::size_t> alive;
    std::vector<RandomStream> streams;
    for (const std::int64_t c : going) {
      alive.push_back(alive_[static_cast<std::size_t>(c)]);
      streams.push_back(streams_[static_cast<std::size_t>(c)]);
    }
    alive_ = std::move(alive);
    streams_ = std::move(streams);
    done_.assign(alive_.size(), false);
  }

  HostModel& model_;
  const GenerationRequest& request_;
  std::vector<Generated>& results_;
  std::vector<std::size_t> alive_;  // prompt numbers of the batch's contexts
  std::vector<RandomStream> streams_;
  std::vector<bool> done_;
  at::Tensor lengths_;  // [contexts] tokens so far
  PassRows rows_;
  KvCache cache_;
};

}  // namespace

std::map<HookPoint, HookFunction> bind_hooks(const std::map<HookPoint, RowHook>& hooks,
                                             const PassRows& rows) {
  std::map<HookPoint, HookFunction> bound;
  for (const auto& [point, hook] : hooks) {
    bound[point] = [&hook, &rows](const at::Tensor& activation) { return hook(activation, rows); };
  }
  return bound;
}

PassRows align_contexts(const std::vector<std::vector<std::int32_t>>& contexts) {
  std::int64_t width = 0;
  for (const auto& context : contexts) {
    THRESHER_CHECK(!context.empty(), "a context without tokens");
    width = std::max(width, static_cast<std::int64_t>(context.size()));
  }
  const auto n = static_cast<std::int64_t>(contexts.size());
  PassRows rows;
  rows.batch = {at::zeros({n, width}, at::kLong), at::zeros({n, width}, at::kLong),
                at::full({n, width}, -1, at::kLong)};
  rows.prompts = at::arange(n, at::kLong);
  rows.prompt_tokens = at::empty({n}, at::kLong);
  for (std::int64_t c = 0; c < n; ++c) {
    const auto& context = contexts[static_cast<std::size_t>(c)];
    const auto length = static_cast<std::int64_t>(context.size());
    const std::int64_t first = c * width + width - length;
    std::copy(context.begin(), context.end(),
              rows.batch.token_ids.mutable_data_ptr<std::int64_t>() + first);
    std::int64_t* positions = rows.batch.positions.mutable_data_ptr<std::int64_t>() + first;
    std::iota(positions, positions + length, 0);
    rows.batch.documents[c].narrow(0, width - length, length).zero_();
    rows.prompt_tokens[c] = length;
  }
  return rows;
}

std::vector<Generated> generate(HostModel& model, const GenerationRequest& request) {
  const at::NoGradGuard no_grad;
  check_prompts(model.info(), request);
  std::vector<Generated> results(request.prompts.size());
  std::vector<std::size_t> order(request.prompts.size());
  std::iota(order.begin(), order.end(), 0);
  // Prompts of like length need little padding.
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return request.prompts[a].token_ids.size() < request.prompts[b].token_ids.size();
  });
  const auto width = static_cast<std::size_t>(request.batch_contexts);
  for (std::size_t first = 0; first < order.size(); first += width) {
    const std::size_t end = std::min(first + width, order.size());
    Batch(model, request,
          {order.begin() + static_cast<std::ptrdiff_t>(first),
           order.begin() + static_cast<std::ptrdiff_t>(end)},
          results)
        .run();
  }
  return results;
}

std::int32_t pick_token(const at::Tensor& logits, double temperature, double top_p,
                        double uniform) {
  at::Tensor probabilities = at::softmax(logits.to(at::kDouble) / temperature, 0);
  at::Tensor ids;
  if (top_p < 1) {
    std::tie(probabilities, ids) = at::sort(probabilities, /*stable=*/true, /*dim=*/0,
                                            /*descending=*/true);
  }
  probabilities = probabilities.contiguous();
  const double* values = probabilities.const_data_ptr<double>();
  const std::int64_t n = probabilities.numel();
  std::int64_t kept = 0;
  double total = 0;
  while (kept < n && total < top_p) total += values[kept++];
  // Where the sum stays below 1 by rounding, all are kept.
  double sum = 0;
  std::int64_t place = 0;
  for (; place + 1 < kept; ++place) {
    sum += values[place];
    if (uniform * total < sum) break;
  }
  return static_cast<std::int32_t>(ids.defined() ? ids[place].item<std::int64_t>() : place);
}

}  // namespace thresher::host_model
