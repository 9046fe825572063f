#include "evaluation/row_evaluation.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <span>
#include <string>

#include "activation_cache/harvest/drop_rules.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/stop_signal.h"
#include "sae/metrics.h"

namespace thresher::evaluation {
namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::string full_name(const Candidate& candidate) {
  return candidate.baseline_of.empty() ? candidate.name
                                       : candidate.baseline_of + "/" + candidate.name;
}

std::size_t hook_of(const Candidate& candidate, const activation_cache::OwnActivations& rows) {
  const auto& hooks = rows.hook_points();
  const auto found = std::find_if(hooks.begin(), hooks.end(), [&](const auto& hook) {
    return hook.hook_point == candidate.hook_point;
  });
  THRESHER_CHECK(found != hooks.end() && found->d_in == candidate.d_in,
                 fmt::format("{} does not fit the rows", full_name(candidate)));
  return static_cast<std::size_t>(found - hooks.begin());
}

/// One evaluation: batches of rows, one a rank and round.
class RowEvaluator {
 public:
  RowEvaluator(const std::vector<Candidate>& candidates,
               const activation_cache::OwnActivations& rows,
               const std::vector<std::int64_t>& chosen, const EvaluationContext& context,
               comm::Communicator& comm)
      : candidates_(candidates), chosen_(chosen), batches_(rows, chosen, context), comm_(comm) {
    THRESHER_CHECK(!candidates.empty(), "nothing to evaluate");
    for (const Candidate& candidate : candidates) {
      hooks_.push_back(hook_of(candidate, rows));
      metrics_.emplace_back(candidate.d_in, candidate.n_latents);
    }
    seconds_.assign(candidates.size(), 0);
  }

  Json run() {
    const auto begin = std::chrono::steady_clock::now();
    Progress progress("evaluate", "rows", static_cast<std::int64_t>(chosen_.size()), 0,
                      comm_.is_root());
    std::int64_t done = 0;
    for (std::int64_t first = 0; first < batches_.size(); first += comm_.world_size()) {
      stop_if_requested(done);
      run_round(first);
      const std::int64_t end = std::min(first + comm_.world_size(), batches_.size());
      for (std::int64_t batch = first; batch < end; ++batch) done += batches_.rows_in(batch);
      progress.update(done);
    }
    progress.finish();
    return result(seconds_since(begin));
  }

 private:
  void stop_if_requested(std::int64_t done) {
    std::int64_t is_requested = stop_requested() ? 1 : 0;
    comm_.all_reduce_max(std::span<std::int64_t>(&is_requested, 1), "evaluation.stop");
    if (is_requested == 0) return;
    throw StoppedBySignal(
        fmt::format("evaluation stopped by {} after {} of {} rows", stop_reason(), done,
                    chosen_.size()),
        "",
        "run the same command again; evaluation starts from its beginning, all that was trained is "
        "saved");
  }

  void run_round(std::int64_t first_batch) {
    const std::int64_t batch = first_batch + comm_.rank();
    const bool has_batch = batch < batches_.size();
    std::vector<at::Tensor> x;
    comm_.agree(
        [&] {
          if (has_batch) x = batches_.read(batch);
        },
        "evaluation.rows");
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      std::optional<sae::ReconstructionMetrics> part;
      comm_.agree(
          [&] {
            if (!has_batch || x[hooks_[i]].size(0) == 0) return;
            const auto begin = std::chrono::steady_clock::now();
            const Reconstruction made = candidates_[i].apply(x[hooks_[i]]).on_host();
            part.emplace(candidates_[i].d_in, candidates_[i].n_latents);
            part->add(x[hooks_[i]], made.recon, made.latent_acts);
            seconds_[i] += seconds_since(begin);
          },
          full_name(candidates_[i]));
      metrics_[i].merge_ranks(part ? &*part : nullptr, comm_);
    }
  }

  Json figures(std::size_t i) const {
    const Candidate& candidate = candidates_[i];
    Json out = Json::object({{"hook_point", candidate.hook_point}});
    if (candidate.n_latents > 0) out["n_latents"] = candidate.n_latents;
    for (const auto& [name, value] : candidate.facts.as_object()) out[name] = value;
    const Json reconstruction = metrics_[i].json();
    for (const auto& [name, value] : reconstruction.as_object()) out[name] = value;
    out["n_dropped"] = static_cast<std::int64_t>(chosen_.size()) - metrics_[i].n_tokens();
    for (const char* name : {"ce_clean", "ce_spliced", "ce_zero_ablated", "ce_mean_ablated",
                             "ce_recovered_zero", "ce_recovered_mean", "kl_divergence"}) {
      out[name] = nullptr;
    }
    if (comm_.is_root() && !std::isfinite(metrics_[i].fvu())) {
      log_warning(fmt::format("sae {}: its figures are not finite", full_name(candidate)));
    }
    return out;
  }

  Json tokens_per_second() {
    Json out = Json::object();
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      std::int64_t microseconds = std::llround(seconds_[i] * 1e6);
      comm_.all_reduce_max(std::span<std::int64_t>(&microseconds, 1), "evaluation.timing");
      out[full_name(candidates_[i])] = static_cast<double>(chosen_.size()) * 1e6 /
                                       static_cast<double>(std::max<std::int64_t>(microseconds, 1));
    }
    return out;
  }

  Json result(double seconds) {
    const auto n_rows = static_cast<std::int64_t>(chosen_.size());
    const std::int64_t n_kept = metrics_[0].n_tokens();
    if (n_kept == 0) {
      throw ConfigError(fmt::format("evaluation: none of {} held-out rows is kept", n_rows),
                        "rows to average over", "look at cache.drop_norm_above");
    }
    Json all = Json::object();
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      const Candidate& candidate = candidates_[i];
      if (candidate.baseline_of.empty()) {
        all[candidate.name] = figures(i);
        all[candidate.name]["baselines"] = Json::object();
      } else {
        all[candidate.baseline_of]["baselines"][candidate.name] = figures(i);
      }
    }
    return Json::object({{"n_tokens", n_kept},
                         {"n_dropped", n_rows - n_kept},
                         {"n_predictions", nullptr},
                         {"ce_not_measured", kNoHostModel},
                         {"rows_sha256", sha256_hex(std::as_bytes(std::span(chosen_)))},
                         {"candidates", all},
                         {"timing", Json::object({{"seconds", seconds},
                                                  {"tokens_per_second", tokens_per_second()}})}});
  }

  const std::vector<Candidate>& candidates_;
  const std::vector<std::int64_t>& chosen_;
  RowBatches batches_;
  comm::Communicator& comm_;
  std::vector<std::size_t> hooks_;  // one a candidate
  std::vector<sae::ReconstructionMetrics> metrics_;
  std::vector<double> seconds_;  // of this rank
};

}  // namespace

std::vector<std::int64_t> choose_held_out_rows(const EvaluationConfig& config,
                                               const activation_cache::OwnActivations& rows) {
  if (rows.n_held_out() == 0) {
    throw ConfigError("activations.held_out_fraction: 0 leaves no rows to measure on",
                      "a share above 0", "0.05 holds out a twentieth");
  }
  return rows.held_out_rows(config.tokens);
}

RowBatches::RowBatches(const activation_cache::OwnActivations& rows,
                       const std::vector<std::int64_t>& chosen, const EvaluationContext& context)
    : rows_(&rows), chosen_(&chosen), context_(&context) {}

std::int64_t RowBatches::size() const {
  return (static_cast<std::int64_t>(chosen_->size()) + kRows - 1) / kRows;
}

std::int64_t RowBatches::rows_in(std::int64_t batch) const {
  return std::min(kRows, static_cast<std::int64_t>(chosen_->size()) - batch * kRows);
}

std::vector<at::Tensor> RowBatches::read(std::int64_t batch) const {
  const std::span<const std::int64_t> chosen = std::span(*chosen_).subspan(
      static_cast<std::size_t>(batch * kRows), static_cast<std::size_t>(rows_in(batch)));
  std::vector<at::Tensor> hooks;
  std::vector<std::uint8_t> is_kept(chosen.size(), 1);
  for (std::size_t hook = 0; hook < rows_->hook_points().size(); ++hook) {
    const auto width = static_cast<std::size_t>(rows_->hook_points()[hook].d_in);
    at::Tensor x = at::empty(
        {static_cast<std::int64_t>(chosen.size()), static_cast<std::int64_t>(width)}, at::kFloat);
    const std::span<float> values(x.mutable_data_ptr<float>(), static_cast<std::size_t>(x.numel()));
    for (std::size_t begin = 0; begin < chosen.size();) {
      std::size_t end = begin + 1;  // rows that stand one after another are read at once
      while (end < chosen.size() && chosen[end] == chosen[end - 1] + 1) ++end;
      rows_->read(hook, chosen[begin], values.subspan(begin * width, (end - begin) * width));
      begin = end;
    }
    for (std::size_t i = 0; !context_->norm_limits.empty() && i < chosen.size(); ++i) {
      const double norm = activation_cache::row_norm(values.subspan(i * width, width));
      if (!(norm <= context_->norm_limits.at(hook))) is_kept[i] = 0;
    }
    hooks.push_back(std::move(x));
  }
  std::vector<std::int64_t> kept;
  for (std::size_t i = 0; i < is_kept.size(); ++i) {
    if (is_kept[i] != 0) kept.push_back(static_cast<std::int64_t>(i));
  }
  if (kept.size() == chosen.size()) return hooks;
  const at::Tensor index = at::tensor(kept, at::kLong);
  for (at::Tensor& x : hooks) x = x.index_select(0, index);
  return hooks;
}

Json evaluate_rows(const std::vector<Candidate>& candidates,
                   const activation_cache::OwnActivations& rows,
                   const std::vector<std::int64_t>& chosen, const EvaluationContext& context,
                   comm::Communicator& comm) {
  return RowEvaluator(candidates, rows, chosen, context, comm).run();
}

}  // namespace thresher::evaluation
