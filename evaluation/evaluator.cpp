#include "evaluation/evaluator.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <set>
#include <span>

#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/stop_signal.h"
#include "evaluation/output_losses.h"

namespace thresher::evaluation {
namespace {

// Small enough that a rank without a batch waits seconds, large enough for the matrix products.
constexpr std::int64_t kBatchTokens = 1024;

/// Columns of the context sums: three of the clean run, two a hook point, two a candidate.
enum CleanColumn : std::size_t { kKept, kPredictions, kCleanLoss, kCleanColumns };
std::size_t zero_column(std::size_t hook) { return kCleanColumns + 2 * hook; }
std::size_t mean_column(std::size_t hook) { return zero_column(hook) + 1; }
std::size_t spliced_column(std::size_t n_hooks, std::size_t candidate) {
  return kCleanColumns + 2 * n_hooks + 2 * candidate;
}
std::size_t kl_column(std::size_t n_hooks, std::size_t candidate) {
  return spliced_column(n_hooks, candidate) + 1;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::string full_name(const Candidate& candidate) {
  return candidate.baseline_of.empty() ? candidate.name
                                       : candidate.baseline_of + "/" + candidate.name;
}

/// Adds values of rows (ascending) into their context's place in one column.
void add_by_context(const at::Tensor& rows, const at::Tensor& values, std::int64_t context_tokens,
                    std::size_t column, std::size_t n_columns, std::vector<double>& sums) {
  const std::int64_t* row = rows.const_data_ptr<std::int64_t>();
  const double* value = values.const_data_ptr<double>();
  for (std::int64_t i = 0; i < rows.numel(); ++i) {
    sums[static_cast<std::size_t>(row[i] / context_tokens) * n_columns + column] += value[i];
  }
}

}  // namespace

Evaluator::Evaluator(const EvaluationConfig& config, const std::vector<Candidate>& candidates,
                     const EvaluationContext& context, const corpus::PackedContexts& held_out,
                     const corpus::Tokenizer& tokenizer, host_model::HostModel& model,
                     comm::Communicator& comm)
    : candidates_(&candidates),
      context_(&context),
      held_out_(&held_out),
      tokenizer_(&tokenizer),
      model_(&model),
      comm_(&comm) {
  THRESHER_CHECK(!candidates.empty(), "nothing to evaluate");
  std::set<std::string> names;
  for (const Candidate& candidate : candidates) {
    THRESHER_CHECK(names.insert(full_name(candidate)).second,
                   fmt::format("two candidates are called {}", full_name(candidate)));
    THRESHER_CHECK(candidate.baseline_of.empty() || names.contains(candidate.baseline_of),
                   fmt::format("{} comes before its SAE", full_name(candidate)));
    metrics_.emplace_back(candidate.d_in, candidate.n_latents);
  }
  choose_contexts(config);
  index_hook_points();
  candidate_seconds_.assign(candidates.size(), 0);
  sums_ = ContextSums(spliced_column(hook_points_.size(), candidates.size()));
}

void Evaluator::choose_contexts(const EvaluationConfig& config) {
  const std::int64_t width = held_out_->context_tokens;
  if (config.tokens < width) {
    throw ConfigError(
        fmt::format("evaluation.tokens: {} is less than one context of {}", config.tokens, width),
        "at least corpus.context_tokens");
  }
  n_contexts_ = std::min(config.tokens / width, held_out_->n_contexts);
  if (n_contexts_ < config.tokens / width && comm_->is_root()) {
    log_warning(fmt::format(
        "evaluation.tokens: {}, but the held-out text has only {} in whole contexts; all are used",
        config.tokens, held_out_->n_contexts * width));
  }
  contexts_per_batch_ = std::max<std::int64_t>(1, kBatchTokens / width);
  n_batches_ = (n_contexts_ + contexts_per_batch_ - 1) / contexts_per_batch_;
}

void Evaluator::index_hook_points() {
  const std::vector<std::string>& known = context_->cache.hook_points;
  for (const Candidate& candidate : *candidates_) {
    const auto in_cache = std::find(known.begin(), known.end(), candidate.hook_point);
    if (in_cache == known.end()) {
      throw ConfigError(fmt::format("sae {}: hook point {} is not in the cache",
                                    full_name(candidate), candidate.hook_point),
                        fmt::format("{}", fmt::join(known, ", ")));
    }
    auto seen = std::find(hook_names_.begin(), hook_names_.end(), candidate.hook_point);
    if (seen == hook_names_.end()) {
      const std::vector<double>& mean =
          context_->training_means.at(static_cast<std::size_t>(in_cache - known.begin()));
      training_means_.push_back(at::tensor(mean, at::kDouble).to(at::kFloat));
      hook_points_.push_back(host_model::HookPoint::parse(candidate.hook_point));
      hook_names_.push_back(candidate.hook_point);
      seen = hook_names_.end() - 1;
    }
    hook_of_candidate_.push_back(static_cast<std::size_t>(seen - hook_names_.begin()));
    THRESHER_CHECK(
        training_means_[hook_of_candidate_.back()].numel() == candidate.d_in,
        fmt::format("{} has another width than {}", full_name(candidate), candidate.hook_point));
  }
}

Json Evaluator::run() {
  const auto begin = std::chrono::steady_clock::now();
  Progress progress("evaluate", "tokens", n_contexts_ * held_out_->context_tokens, 0,
                    comm_->is_root());
  const std::int64_t world_size = comm_->world_size();
  const std::int64_t n_rounds = (n_batches_ + world_size - 1) / world_size;
  for (std::int64_t round = 0; round < n_rounds; ++round) {
    stop_if_requested(round);
    run_round(round);
    const std::int64_t done = std::min((round + 1) * world_size * contexts_per_batch_, n_contexts_);
    progress.update(done * held_out_->context_tokens);
  }
  progress.finish();
  return result(seconds_since(begin));
}

void Evaluator::stop_if_requested(std::int64_t round) {
  std::int64_t is_requested = stop_requested() ? 1 : 0;
  comm_->all_reduce_max(std::span<std::int64_t>(&is_requested, 1), "evaluation.stop");
  if (is_requested == 0) return;
  throw StoppedBySignal(
      fmt::format("evaluation stopped by {} after {} of {} contexts", stop_reason(),
                  std::min(round * comm_->world_size() * contexts_per_batch_, n_contexts_),
                  n_contexts_),
      "",
      "run the same command again; evaluation starts from its beginning, all that was trained is "
      "saved");
}

void Evaluator::run_round(std::int64_t round) {
  const std::int64_t batch = round * comm_->world_size() + comm_->rank();
  Round mine;
  mine.has_batch = batch < n_batches_;
  comm_->agree(
      [&] {
        if (!mine.has_batch) return;
        const std::int64_t first = batch * contexts_per_batch_;
        mine.n_contexts = std::min(contexts_per_batch_, n_contexts_ - first);
        mine.clean = run_clean(make_batch(*held_out_, first, mine.n_contexts), hook_points_,
                               *context_, *tokenizer_, *model_);
        ablate(mine);
      },
      "evaluation.clean");
  for (std::size_t candidate = 0; candidate < candidates_->size(); ++candidate)
    measure_candidate(candidate, mine);
  add_losses(mine);
}

void Evaluator::ablate(Round& round) {
  const std::int64_t n_kept = round.clean.kept_rows.numel();
  for (std::size_t hook = 0; hook < hook_points_.size(); ++hook) {
    const at::Tensor mean = training_means_[hook].unsqueeze(0).expand({n_kept, -1}).contiguous();
    round.finals.push_back(
        run_spliced(round.clean, hook_points_[hook], at::zeros_like(mean), *model_));
    round.finals.push_back(run_spliced(round.clean, hook_points_[hook], mean, *model_));
  }
}

void Evaluator::measure_candidate(std::size_t index, Round& round) {
  const Candidate& candidate = (*candidates_)[index];
  std::optional<sae::ReconstructionMetrics> part;
  comm_->agree(
      [&] {
        if (!round.has_batch) return;
        const auto begin = std::chrono::steady_clock::now();
        const host_model::HookPoint& point = hook_points_[hook_of_candidate_[index]];
        const at::Tensor& activations = round.clean.activations.at(point);
        const at::Tensor x =
            activations.index_select(0, round.clean.kept_rows.to(activations.device()));
        const Reconstruction made = candidate.apply(x);
        const Reconstruction measured = made.on_host();
        part.emplace(candidate.d_in, candidate.n_latents);
        part->add(x.to(at::kCPU), measured.recon, measured.latent_acts);
        round.finals.push_back(run_spliced(round.clean, point, made.recon, *model_));
        candidate_seconds_[index] += seconds_since(begin);
      },
      full_name(candidate));
  metrics_[index].merge_ranks(part ? &*part : nullptr, *comm_);
}

void Evaluator::add_losses(Round& round) {
  std::vector<double> sums;
  comm_->agree(
      [&] {
        if (!round.has_batch) return;
        const std::int64_t width = held_out_->context_tokens;
        const std::size_t n_columns = sums_.n_columns();
        sums.assign(static_cast<std::size_t>(round.n_contexts) * n_columns, 0);
        const at::Tensor& rows = round.clean.prediction_rows;
        const auto add = [&](const at::Tensor& at_rows, const at::Tensor& values,
                             std::size_t column) {
          add_by_context(at_rows, values, width, column, n_columns, sums);
        };
        add(round.clean.kept_rows, at::ones({round.clean.kept_rows.numel()}, at::kDouble), kKept);
        add(rows, at::ones({rows.numel()}, at::kDouble), kPredictions);
        const std::vector<OutputLosses> losses = output_losses(
            round.clean.final_normalized, round.finals, rows, round.clean.targets, *model_);
        add(rows, losses[0].cross_entropy, kCleanLoss);
        const std::size_t n_hooks = hook_points_.size();
        for (std::size_t hook = 0; hook < n_hooks; ++hook) {
          add(rows, losses[1 + 2 * hook].cross_entropy, zero_column(hook));
          add(rows, losses[2 + 2 * hook].cross_entropy, mean_column(hook));
        }
        for (std::size_t candidate = 0; candidate < candidates_->size(); ++candidate) {
          const OutputLosses& spliced = losses[1 + 2 * n_hooks + candidate];
          add(rows, spliced.cross_entropy, spliced_column(n_hooks, candidate));
          add(rows, spliced.kl_divergence, kl_column(n_hooks, candidate));
        }
      },
      "evaluation.losses");
  sums_.gather(sums, *comm_);
}

Json Evaluator::figures(std::size_t index) const {
  const Candidate& candidate = (*candidates_)[index];
  const std::size_t hook = hook_of_candidate_[index];
  const std::size_t n_hooks = hook_points_.size();
  const double n_predictions = sums_.total(kPredictions);
  const auto mean = [&](std::size_t column) { return sums_.total(column) / n_predictions; };
  const double clean = mean(kCleanLoss);
  const double spliced = mean(spliced_column(n_hooks, index));
  const double zero = mean(zero_column(hook));
  const double ablated = mean(mean_column(hook));

  Json out = Json::object({{"hook_point", candidate.hook_point}});
  if (candidate.n_latents > 0) out["n_latents"] = candidate.n_latents;
  for (const auto& [name, value] : candidate.facts.as_object()) out[name] = value;
  const Json reconstruction = metrics_[index].json();
  for (const auto& [name, value] : reconstruction.as_object()) out[name] = value;
  out["n_dropped"] = n_contexts_ * held_out_->context_tokens - metrics_[index].n_tokens();
  out["ce_clean"] = clean;
  out["ce_spliced"] = spliced;
  out["ce_zero_ablated"] = zero;
  out["ce_mean_ablated"] = ablated;
  out["ce_recovered_zero"] = (zero - spliced) / (zero - clean);
  out["ce_recovered_mean"] = (ablated - spliced) / (ablated - clean);
  out["kl_divergence"] = mean(kl_column(n_hooks, index));
  if (comm_->is_root() && !(std::isfinite(spliced) && std::isfinite(metrics_[index].fvu()))) {
    log_warning(fmt::format("sae {}: its figures are not finite", full_name(candidate)));
  }
  return out;
}

Json Evaluator::tokens_per_second() {
  Json out = Json::object();
  for (std::size_t i = 0; i < candidates_->size(); ++i) {
    std::int64_t microseconds = std::llround(candidate_seconds_[i] * 1e6);
    comm_->all_reduce_max(std::span<std::int64_t>(&microseconds, 1), "evaluation.timing");
    out[full_name((*candidates_)[i])] =
        static_cast<double>(n_contexts_ * held_out_->context_tokens) * 1e6 /
        static_cast<double>(std::max<std::int64_t>(microseconds, 1));
  }
  return out;
}

Json Evaluator::result(double seconds) {
  const std::int64_t n_tokens = n_contexts_ * held_out_->context_tokens;
  const auto n_kept = static_cast<std::int64_t>(sums_.total(kKept));
  const auto n_predictions = static_cast<std::int64_t>(sums_.total(kPredictions));
  if (n_predictions == 0) {
    throw ConfigError(
        fmt::format("evaluation: none of {} held-out positions is kept and has a next token",
                    n_tokens),
        "positions to average over",
        "look at cache.drop_first_positions, drop_norm_above and the length of the documents");
  }
  Json all = Json::object();
  for (std::size_t i = 0; i < candidates_->size(); ++i) {
    const Candidate& candidate = (*candidates_)[i];
    if (candidate.baseline_of.empty()) {
      all[candidate.name] = figures(i);
      all[candidate.name]["baselines"] = Json::object();
    } else {
      all[candidate.baseline_of]["baselines"][candidate.name] = figures(i);
    }
  }
  const std::span<const std::int32_t> ids(held_out_->token_ids.data(),
                                          static_cast<std::size_t>(n_tokens));
  return Json::object({{"n_tokens", n_kept},
                       {"n_dropped", n_tokens - n_kept},
                       {"n_predictions", n_predictions},
                       {"contexts_sha256", sha256_hex(std::as_bytes(ids))},
                       {"candidates", all},
                       {"timing", Json::object({{"seconds", seconds},
                                                {"tokens_per_second", tokens_per_second()}})}});
}

}  // namespace thresher::evaluation
