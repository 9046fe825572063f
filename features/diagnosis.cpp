#include "features/diagnosis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "core/visible_text.h"

namespace thresher::features {
namespace {

using evaluation::Curve;
using evaluation::RunRecord;
using evaluation::SaeRecord;
using Severity = Finding::Severity;

/// The number at a dotted path; nothing where there is none.
std::optional<double> number_at(const Json& json, std::string_view path) {
  const Json* at = &json;
  while (!path.empty()) {
    if (!at->is_object()) return std::nullopt;
    const std::size_t dot = std::min(path.find('.'), path.size());
    at = at->find(path.substr(0, dot));
    if (at == nullptr) return std::nullopt;
    path.remove_prefix(std::min(dot + 1, path.size()));
  }
  return at->is_number() ? std::optional(at->as_double()) : std::nullopt;
}

/// Mean of a curve over the part (from, to] of training.
std::optional<double> mean_over(const Curve& curve, double tokens, double from, double to) {
  double sum = 0;
  std::int64_t count = 0;
  for (const auto& [at, value] : curve.points()) {
    if (at <= from * tokens || at > to * tokens || !std::isfinite(value)) continue;
    sum += value;
    ++count;
  }
  return count > 0 ? std::optional(sum / static_cast<double>(count)) : std::nullopt;
}

std::string percent(double part) { return fmt::format("{:.3g} %", 100 * part); }

class Diagnosis {
 public:
  Diagnosis(const RunRecord& run, const Json& cache) : run_(run), cache_(cache) {}

  std::vector<Finding> findings() {
    judge_run();
    for (const SaeRecord& sae : run_.saes) {
      judge_training(sae);
      judge_schedule(sae);
      judge_data(sae);
      judge_evaluation(sae);
    }
    std::stable_sort(found_.begin(), found_.end(),
                     [](const Finding& a, const Finding& b) { return a.severity < b.severity; });
    return std::move(found_);
  }

 private:
  void say(Severity severity, const char* name, const SaeRecord* sae, double figure,
           double threshold, std::string text, std::string advice) {
    found_.push_back({severity, name, sae == nullptr ? "" : sae->name, figure, threshold,
                      std::move(text), std::move(advice)});
  }

  void judge_run() {
    const Json* state = run_.status.is_object() ? run_.status.find("state") : nullptr;
    if (state != nullptr && state->is_string() && state->as_string() != "done") {
      const double done = number_at(run_.status, "step").value_or(0);
      const double steps = number_at(run_.status, "steps").value_or(0);
      say(Severity::kSevere, "unfinished", nullptr, done, steps,
          fmt::format("the run is {}, not done: step {:.0f} of {:.0f}",
                      visible_text(state->as_string()), done, steps),
          "call `thresher run` again: it goes on where it stopped");
    }
    if (!run_.is_evaluated()) {
      say(Severity::kWarning, "not_evaluated", nullptr, 0, 1, "the run was not evaluated",
          "`thresher eval RUN`: nothing below compares it with baselines");
    }
    const auto total = number_at(run_.config, "train.total_tokens");
    const auto batch = number_at(run_.config, "train.batch_tokens");
    if (!total || !batch || !(*batch > 0)) return;
    const double steps = std::floor(*total / *batch);
    if (steps < thresholds::kSteps) {
      say(Severity::kWarning, "few_steps", nullptr, steps, thresholds::kSteps,
          fmt::format("{:.0f} optimiser steps", steps),
          "more train.total_tokens, or smaller train.batch_tokens");
    }
  }

  /// Whether a figure still falls: part by which its mean over the last tenth lies below that over
  /// the tenth before.
  void judge_falling(const SaeRecord& sae, const char* figure, const char* name,
                     const std::string& advice) {
    const Curve* curve = sae.curves.find(figure);
    if (curve == nullptr || curve->is_constant()) return;
    const auto before = mean_over(*curve, sae.curves.tokens, 0.8, 0.9);
    const auto last = mean_over(*curve, sae.curves.tokens, 0.9, 1.0);
    if (!before || !last || !(*before > 0)) return;
    const double fall = 1 - *last / *before;
    if (!(fall > thresholds::kFalling)) return;
    say(Severity::kWarning, name, &sae, fall, thresholds::kFalling,
        fmt::format("{} fell by {} from the last but one tenth of training to the last ({:.4g} to "
                    "{:.4g})",
                    figure, percent(fall), *before, *last),
        advice);
  }

  void judge_training(const SaeRecord& sae) {
    judge_falling(sae, "l0", "l0_falling",
                  "train longer: sparsity has not settled, so l0 and fvu are those of a moment");
    judge_falling(sae, "loss", "loss_falling",
                  "train longer; a part of the fall is the decay of the learning rate");
    const Curve* loss = sae.curves.find("loss");
    if (loss != nullptr && !std::isfinite(loss->last())) {
      say(Severity::kSevere, "loss_not_finite", &sae, loss->last(), 0, "the loss is not a number",
          "a lower train.learning_rate, or float32 inputs");
    }
    const auto window = number_at(sae.config, "dead_window_tokens");
    const auto total = number_at(run_.config, "train.total_tokens");
    if (window && total && *window >= *total) {
      say(Severity::kSevere, "dead_window", &sae, *window, *total,
          fmt::format("dead_window_tokens = {:.0f} is longer than the run of {:.0f} tokens: no "
                      "latent could be called dead or be revived",
                      *window, *total),
          "a window of at most a tenth of the run");
    }
  }

  void judge_schedule(const SaeRecord& sae) {
    const Curve* rate = sae.curves.find("learning_rate");
    if (rate == nullptr) return;
    double largest = 0;
    for (const auto& [at, value] : rate->points()) largest = std::max(largest, value);
    if (!(largest > 0)) return;
    const double left = rate->last() / largest;
    if (!(left > thresholds::kFloor)) return;
    say(Severity::kWarning, "decay_not_reached", &sae, left, thresholds::kFloor,
        fmt::format("the last learning rate is {} of the largest: the decay at the end was not "
                    "reached, or there is none",
                    percent(left)),
        "train to the end, with train.decay_tokens of a fifth of the run");
  }

  void judge_data(const SaeRecord& sae) {
    const auto rows = number_at(cache_, "rows");
    const auto total = number_at(run_.config, "train.total_tokens");
    const auto n_latents = number_at(sae.evaluation, "n_latents");
    if (total && n_latents && *n_latents > 0) {
      const double distinct = rows ? std::min(*rows, *total) : *total;
      const double each = distinct / *n_latents;
      if (each < thresholds::kTokensPerLatent) {
        say(Severity::kWarning, "few_tokens", &sae, each, thresholds::kTokensPerLatent,
            fmt::format("{:.3g} distinct training tokens a latent", each),
            "more text, or fewer latents");
      }
    }
    if (rows && total && *rows > 0 && *total / *rows > thresholds::kEpochs) {
      say(Severity::kWarning, "many_epochs", &sae, *total / *rows, thresholds::kEpochs,
          fmt::format("every row was read {:.3g} times", *total / *rows), "more text");
    }
    judge_norms(sae);
  }

  void judge_norms(const SaeRecord& sae) {
    const Json* point = sae.config.is_object() ? sae.config.find("hook_point") : nullptr;
    const Json* hooks = cache_.is_object() ? cache_.find("hook_points") : nullptr;
    if (point == nullptr || !point->is_string() || hooks == nullptr || !hooks->is_object()) return;
    const Json* hook = hooks->find(point->as_string());
    if (hook == nullptr) return;
    const auto most = number_at(*hook, "norm.max"),
               median = number_at(*hook, "norm.lowest_unit_median");
    if (most && median && *median > 0 && *most / *median > thresholds::kOutlierNorm) {
      say(Severity::kSevere, "sinks", &sae, *most / *median, thresholds::kOutlierNorm,
          fmt::format("the cache holds rows of {:.3g} times the median norm: attention sinks, "
                      "which the loss then is about",
                      *most / *median),
          "cache.drop_norm_above: 10 and cache.drop_first_positions: 1, in a new cache");
    }
    const auto dropped = number_at(cache_, "dropped.norm"), rows = number_at(cache_, "rows");
    if (dropped && rows && *dropped > 0) {
      say(Severity::kNote, "outliers_dropped", &sae, *dropped, 0,
          fmt::format("{:.0f} rows of outlier norm were left out of the cache of {:.0f}", *dropped,
                      *rows),
          "none: what is measured leaves them out, too");
    }
    const auto square = number_at(*hook, "mean_squared_norm"),
               deviation = number_at(*hook, "mean_squared_deviation");
    if (!square || !deviation || !(*deviation > 0)) return;
    const double severity = std::sqrt(std::max(0.0, *square - *deviation) / *deviation);
    if (!(severity > thresholds::kSeverity)) return;
    const Json* centres = sae.config.find("centre_inputs");
    const bool is_centred = centres != nullptr && centres->is_bool() && centres->as_bool();
    say(is_centred ? Severity::kNote : Severity::kSevere, "outlier_severity", &sae, severity,
        thresholds::kSeverity,
        fmt::format("the mean activation's norm is {:.3g} times the deviation's", severity),
        is_centred ? "none: centre_inputs takes the mean away"
                   : "centre_inputs: true; latents die where the mean outweighs the rest");
  }

  void judge_evaluation(const SaeRecord& sae) {
    const Json& figures = sae.evaluation;
    if (const auto dead = number_at(figures, "dead_fraction"); dead && *dead > thresholds::kDead) {
      say(*dead > thresholds::kManyDead ? Severity::kSevere : Severity::kWarning, "dead_latents",
          &sae, *dead, thresholds::kDead,
          fmt::format("{} of latents never fire on the {:.0f} held-out tokens", percent(*dead),
                      number_at(figures, "n_tokens").value_or(0)),
          "fewer latents, more tokens, aux_k or resampling with a shorter dead window");
    }
    if (const auto dense = number_at(figures, "dense_fraction");
        dense && *dense > thresholds::kDense) {
      say(Severity::kWarning, "dense_latents", &sae, *dense, thresholds::kDense,
          fmt::format("{} of latents fire on more than a tenth of tokens", percent(*dense)),
          "a smaller k or a larger sparsity penalty; dense latents seldom mean one thing");
    }
    judge_baselines(sae);
    const auto fvu = number_at(figures, "fvu");
    const Curve* training = sae.curves.find("batch_fvu");
    if (!fvu || training == nullptr) return;
    const auto last = mean_over(*training, sae.curves.tokens, 0.9, 1.0);
    if (!last || !(*last > 0) || !(*fvu / *last > thresholds::kGap)) return;
    say(Severity::kWarning, "overfitting", &sae, *fvu / *last, thresholds::kGap,
        fmt::format("held-out fvu {:.3g} is {:.3g} times that of the last training batches {:.3g}",
                    *fvu, *fvu / *last, *last),
        "more text, fewer passes over it, or fewer latents");
  }

  void judge_baselines(const SaeRecord& sae) {
    const auto fvu = number_at(sae.evaluation, "fvu");
    const auto pca = number_at(sae.evaluation, "baselines.pca.fvu");
    if (fvu && pca && *pca <= *fvu) {
      say(Severity::kSevere, "pca_wins", &sae, *fvu, *pca,
          fmt::format("PCA with as many components as there are active latents has fvu {:.3g}, the "
                      "SAE {:.3g}",
                      *pca, *fvu),
          "the SAE has learnt less than the leading directions: train longer, another learning "
          "rate, or a stronger penalty where l0 nears the width of the activation");
    }
    const auto mean = number_at(sae.evaluation, "ce_recovered_mean");
    const auto untrained = number_at(sae.evaluation, "baselines.untrained.ce_recovered_mean");
    if (mean && untrained && *mean <= *untrained) {
      say(Severity::kSevere, "untrained_wins", &sae, *mean, *untrained,
          fmt::format("ce_recovered_mean {:.3g}, {:.3g} before training", *mean, *untrained),
          "look at the learning rate and at what the cache holds");
    } else if (mean && *mean < thresholds::kRecovered) {
      say(Severity::kWarning, "ce_recovered", &sae, *mean, thresholds::kRecovered,
          fmt::format("the reconstruction recovers {} of the loss between mean ablation and the "
                      "untouched model",
                      percent(*mean)),
          "a larger k, or longer training");
    }
  }

  const RunRecord& run_;
  const Json& cache_;
  std::vector<Finding> found_;
};

}  // namespace

const char* severity_name(Severity severity) {
  switch (severity) {
    case Severity::kSevere:
      return "severe";
    case Severity::kWarning:
      return "warning";
    case Severity::kNote:
      break;
  }
  return "note";
}

std::vector<Finding> diagnose(const RunRecord& run, const Json& cache) {
  return Diagnosis(run, cache).findings();
}

Json findings_json(const std::vector<Finding>& findings) {
  Json out = Json::array();
  for (const Finding& one : findings) {
    out.push_back(Json::object({{"severity", severity_name(one.severity)},
                                {"name", one.name},
                                {"sae", one.sae.empty() ? Json() : Json(one.sae)},
                                {"figure", one.figure},
                                {"threshold", one.threshold},
                                {"text", one.text},
                                {"advice", one.advice}}));
  }
  return out;
}

std::string findings_text(const std::vector<Finding>& findings) {
  if (findings.empty()) return "nothing to say\n";
  std::string out;
  for (const Finding& one : findings) {
    out += fmt::format(
        "{}: {}{}\n    {} (said from {:.4g} on)\n    {}\n", severity_name(one.severity), one.name,
        one.sae.empty() ? "" : " of " + visible_text(one.sae), one.text, one.threshold, one.advice);
  }
  return out;
}

}  // namespace thresher::features
