#include "features/probing.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/hash.h"
#include "core/random.h"
#include "core/visible_text.h"
#include "features/logistic.h"
#include "features/probe_families.h"
#include "features/ranked_features.h"

namespace thresher::features {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kAlpha = 0.05;

struct Task {
  std::string positive, negative;
  bool is_control = false;
};

/// The documents of a set that a task is about.
struct TaskRows {
  at::Tensor rows;  // of the pooled matrices
  std::vector<std::uint8_t> is_positive;
  std::vector<std::int64_t> clusters;
  std::int64_t n_positive = 0, n_negative = 0;
  bool has_both() const { return n_positive > 0 && n_negative > 0; }
};

TaskRows rows_of(const ProbeSet& set, const Task& task) {
  TaskRows out;
  std::vector<std::int64_t> rows;
  for (std::size_t row = 0; row < set.pooled.documents.size(); ++row) {
    const LabelledText& text = set.texts[set.pooled.documents[row]];
    const std::string& label = task.is_control ? text.control : text.label;
    const bool is_positive = label == task.positive;
    if (!is_positive && !task.negative.empty() && label != task.negative) continue;
    rows.push_back(static_cast<std::int64_t>(row));
    out.is_positive.push_back(is_positive ? 1 : 0);
    out.clusters.push_back(static_cast<std::int64_t>(xxh3_64(text.key) >> 1U));
    (is_positive ? out.n_positive : out.n_negative) += 1;
  }
  out.rows = at::tensor(rows, at::kLong);
  return out;
}

/// Works on one task; the sets' matrices are cut to its documents.
class TaskProbe {
 public:
  TaskProbe(const std::vector<ProbeSet>& sets, const Families& families,
            const ProbeOptions& options, const Task& task)
      : families_(families), options_(options) {
    report_.positive = task.positive;
    report_.negative = task.negative;
    report_.is_control = task.is_control;
    for (const ProbeSet& set : sets) {
      rows_.push_back(rows_of(set, task));
      const TaskRows& rows = rows_.back();
      report_.counts.emplace_back(rows.n_positive, rows.n_negative);
      if (rows_.size() == 1) continue;
      report_.test_labels.push_back(rows.is_positive);
      bootstraps_.push_back(rows.has_both()
                                ? std::make_unique<DocumentBootstrap>(
                                      rows.clusters, rows.is_positive, options.n_resamples,
                                      options.seed, "probe.resamples")
                                : nullptr);
    }
    const TaskRows& training = rows_[0];
    if (training.n_positive < 2 || training.n_negative < 2) {
      throw ConfigError(
          fmt::format("probe: the training documents have {} of {} and {} others",
                      training.n_positive, visible_text(task.positive), training.n_negative),
          "at least two of each", "more documents, or a smaller --held-out share");
    }
  }

  TaskReport run() {
    add_latents();
    add_dictionary(families_.untrained);
    add_tokens();
    for (const Family* family : {&families_.raw, &families_.embedded}) {
      add_linear(*family, "difference of means",
                 fit_difference_of_means(training(*family), labels()));
      add_linear(*family, "logistic", fit_logistic(training(*family), labels()));
    }
    add_directions();
    add_random_directions();
    judge();
    return std::move(report_);
  }

 private:
  const std::vector<std::uint8_t>& labels() const { return rows_[0].is_positive; }
  std::size_t n_tests() const { return rows_.size() - 1; }
  at::Tensor values(const Family& family, std::size_t set) const {
    return family.values[set].index_select(0, rows_[set].rows);
  }
  at::Tensor training(const Family& family) const { return values(family, 0); }

  TestFigure test(const std::vector<double>& scores, std::size_t test) const {
    if (bootstraps_[test] == nullptr) return {kNan, kNan, {kNan, kNan}, {kNan, kNan}};
    const std::vector<std::uint8_t>& is_positive = rows_[test + 1].is_positive;
    return {auroc(scores, is_positive), cohens_d(scores, is_positive),
            central_interval(bootstraps_[test]->auroc(scores)),
            central_interval(bootstraps_[test]->cohens_d(scores))};
  }

  /// `score(set)` scores the task's documents of a set.
  void add_probe(const Family& family, std::string method, const std::vector<std::int64_t>& columns,
                 const std::function<std::vector<double>(std::size_t)>& score) {
    ProbeFigure figure;
    figure.family = family.name;
    figure.method = std::move(method);
    for (const std::int64_t column : columns) figure.features.push_back(family.number(column));
    figure.training_auroc = auroc(score(0), labels());
    for (std::size_t i = 0; i < n_tests(); ++i) {
      figure.scores.push_back(score(i + 1));
      figure.tests.push_back(test(figure.scores.back(), i));
    }
    report_.probes.push_back(std::move(figure));
  }

  void add_linear(const Family& family, const std::string& method, const LinearProbe& probe) {
    add_probe(family, method, {},
              [&](std::size_t set) { return probe.scores(values(family, set)); });
  }

  void add_best(const Family& family, std::int64_t column) {
    add_probe(family, "best", {column},
              [&](std::size_t set) { return column_scores(values(family, set), column); });
  }

  void add_sparse(const Family& family, std::span<const double> aurocs) {
    for (const std::int64_t k : options_.sparse_ks) {
      const std::vector<std::int64_t> columns = best_features(aurocs, k, true);
      const at::Tensor index = at::tensor(columns, at::kLong);
      const LinearProbe probe = fit_logistic(training(family).index_select(1, index), labels());
      add_probe(family, fmt::format("sparse {}", k), columns, [&](std::size_t set) {
        return probe.scores(values(family, set).index_select(1, index));
      });
    }
  }

  void add_dictionary(const Family& family) {
    const RankedFeatures ranked(training(family));
    const std::vector<double> aurocs = ranked.aurocs(labels());
    add_best(family, best_features(aurocs, 1, false)[0]);
    add_sparse(family, aurocs);
  }

  void add_tokens() {
    const Family& tokens = families_.tokens;
    if (tokens.feature_numbers.empty()) {
      throw ConfigError(
          fmt::format("probe: no token occurs in {} training documents", kLeastTokenDocuments),
          "more documents");
    }
    const std::vector<double> aurocs = RankedFeatures(training(tokens)).aurocs(labels());
    add_best(tokens, best_features(aurocs, 1, false)[0]);
    add_linear(tokens, "logistic", fit_logistic(training(tokens), labels()));
  }

  void add_latents() {
    const Family& sae = families_.sae;
    const RankedFeatures ranked(training(sae));
    const std::vector<double> aurocs = ranked.aurocs(labels());
    std::vector<double> p;
    for (std::size_t i = 0; i < aurocs.size(); ++i) {
      p.push_back(mann_whitney_p(aurocs[i], rows_[0].n_positive, rows_[0].n_negative,
                                 ranked.tie_terms()[i]));
    }
    const std::vector<double> rate = benjamini_hochberg(p), family_wise = holm(p);
    for (std::size_t i = 0; i < aurocs.size(); ++i) {
      report_.n_discoveries += aurocs[i] > 0.5 && rate[i] <= kAlpha ? 1 : 0;
      report_.n_family += aurocs[i] > 0.5 && family_wise[i] <= kAlpha ? 1 : 0;
    }
    const std::vector<std::int64_t> best =
        best_features(aurocs, std::max<std::int64_t>(1, options_.n_best), false);
    for (const std::int64_t latent : best) {
      const auto i = static_cast<std::size_t>(latent);
      LatentFigure figure{latent, aurocs[i], 0, p[i], rate[i], family_wise[i], {}};
      figure.training_d = cohens_d(column_scores(training(sae), latent), labels());
      for (std::size_t set = 1; set < rows_.size(); ++set) {
        figure.tests.push_back(test(column_scores(values(sae, set), latent), set - 1));
      }
      report_.latents.push_back(std::move(figure));
    }
    add_best(sae, best[0]);
    add_sparse(sae, aurocs);
    add_shuffled(ranked);
  }

  std::vector<std::uint8_t> shuffled(std::size_t set, std::int64_t shuffle) const {
    const std::vector<std::uint8_t>& labels = rows_[set].is_positive;
    const Permutation permutation(std::max<std::size_t>(1, labels.size()), options_.seed,
                                  fmt::format("probe.shuffle.{}.{}", set, shuffle));
    std::vector<std::uint8_t> out;
    for (std::size_t i = 0; i < labels.size(); ++i) out.push_back(labels[permutation(i)]);
    return out;
  }

  /// The whole choice again on labels that mean nothing.
  void add_shuffled(const RankedFeatures& ranked) {
    const std::int64_t n = options_.n_shuffles;
    at::Tensor labels =
        at::empty({n, static_cast<std::int64_t>(this->labels().size())}, at::kDouble);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::vector<std::uint8_t> one = shuffled(0, i);
      std::copy(one.begin(), one.end(), labels.data_ptr<double>() + i * labels.size(1));
    }
    const at::Tensor best = ranked.aurocs(labels.t()).argmax(0).contiguous();
    std::vector<std::vector<double>> found(n_tests());
    for (std::size_t set = 1; set < rows_.size(); ++set) {
      const at::Tensor latents = values(families_.sae, set);
      for (std::int64_t i = 0; i < n; ++i) {
        found[set - 1].push_back(auroc(
            column_scores(latents, best.const_data_ptr<std::int64_t>()[i]), shuffled(set, i)));
      }
    }
    report_.shuffled = chance(found);
  }

  void add_directions() {
    for (const ProbeDirection& direction : options_.directions) {
      const Family family{"direction", families_.raw.values, {}};
      const double above =
          auroc(projections(training(family), direction.vector, 1), labels()) - 0.5;
      const double sign = above < 0 ? -1 : 1;
      add_probe(family, direction.name, {}, [&](std::size_t set) {
        return projections(values(family, set), direction.vector, sign);
      });
    }
  }

  void add_random_directions() {
    const at::Tensor directions = random_directions(
        options_.n_random, families_.raw.values[0].size(1), options_.seed, "probe.directions");
    std::vector<at::Tensor> projected;
    for (std::size_t set = 0; set < rows_.size(); ++set) {
      projected.push_back(at::matmul(values(families_.raw, set), directions.t()));
    }
    std::vector<std::vector<double>> found(n_tests());
    for (std::int64_t i = 0; i < options_.n_random; ++i) {
      const bool is_turned = auroc(column_scores(projected[0], i), labels()) < 0.5;
      for (std::size_t set = 1; set < rows_.size(); ++set) {
        const double one = auroc(column_scores(projected[set], i), rows_[set].is_positive);
        found[set - 1].push_back(is_turned ? 1 - one : one);
      }
    }
    report_.random = chance(found);
  }

  static ChanceFigure chance(const std::vector<std::vector<double>>& found) {
    ChanceFigure out;
    for (const std::vector<double>& values : found) {
      out.n = static_cast<std::int64_t>(values.size());
      double sum = 0;
      for (const double value : values) sum += value;
      out.mean.push_back(sum / static_cast<double>(values.size()));
      out.p95.push_back(quantile(values, 0.95));
    }
    return out;
  }

  Verdict against(const ProbeFigure& probe, const ProbeFigure& baseline, std::size_t test) const {
    const TestFigure& mine = probe.tests[test];
    const TestFigure& theirs = baseline.tests[test];
    Verdict out{baseline.name(), false, theirs.auroc, theirs.auroc_interval, {kNan, kNan}, {}};
    std::vector<double> difference = bootstraps_[test]->auroc(probe.scores[test]);
    const std::vector<double> other = bootstraps_[test]->auroc(baseline.scores[test]);
    for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= other[i];
    out.difference = central_interval(difference);
    out.outcome = outcome(mine.auroc_interval, theirs.auroc_interval);
    return out;
  }

  static Verdict against_chance(const ProbeFigure& probe, const std::string& name, double p95,
                                std::size_t test) {
    const Interval at{p95, p95};
    return {name, true, p95, at, {kNan, kNan}, outcome(probe.tests[test].auroc_interval, at)};
  }

  static Verdict::Outcome outcome(const Interval& mine, const Interval& theirs) {
    if (mine.low > theirs.high) return Verdict::Outcome::kAbove;
    return mine.high < theirs.low ? Verdict::Outcome::kBelow : Verdict::Outcome::kNoBetter;
  }

  void judge() {
    const auto judge_one = [&](const ProbeFigure& probe, std::vector<std::vector<Verdict>>& out,
                               const std::vector<std::pair<std::string, std::string>>& baselines) {
      for (std::size_t test = 0; test < n_tests(); ++test) {
        std::vector<Verdict> verdicts;
        if (bootstraps_[test] != nullptr) {
          for (const auto& [family, method] : baselines) {
            verdicts.push_back(against(probe, report_.probe(family, method), test));
          }
          verdicts.push_back(against_chance(probe, "random directions, 95th percentile",
                                            report_.random.p95[test], test));
          verdicts.push_back(against_chance(probe, "shuffled labels, 95th percentile",
                                            report_.shuffled.p95[test], test));
        }
        out.push_back(std::move(verdicts));
      }
    };
    judge_one(report_.probe("sae", "best"), report_.best_latent,
              {{"untrained", "best"},
               {"tokens", "best"},
               {"tokens", "logistic"},
               {"layer 0", "difference of means"},
               {"raw", "difference of means"},
               {"raw", "logistic"}});
    if (options_.sparse_ks.empty()) return;
    const std::string sparse = fmt::format("sparse {}", options_.sparse_ks.back());
    judge_one(report_.probe("sae", sparse), report_.sparse_probe,
              {{"untrained", sparse},
               {"tokens", "logistic"},
               {"layer 0", "logistic"},
               {"raw", "difference of means"},
               {"raw", "logistic"}});
  }

  const Families& families_;
  const ProbeOptions& options_;
  std::vector<TaskRows> rows_;                                  // one a set
  std::vector<std::unique_ptr<DocumentBootstrap>> bootstraps_;  // one a test set; null: one group
  TaskReport report_;
};

std::vector<Task> make_tasks(const ProbeSet& training, const ProbeOptions& options) {
  const std::vector<std::string> labels = labels_of(training.texts);
  if (labels.size() < 2) {
    throw ConfigError(fmt::format("probe: the training documents have {} label(s)", labels.size()),
                      "at least two");
  }
  std::vector<Task> tasks;
  for (const std::string& label : labels) tasks.push_back({label, "", false});
  for (const auto& [positive, negative] : options.contrasts) {
    for (const std::string& label : {positive, negative}) {
      if (std::find(labels.begin(), labels.end(), label) != labels.end()) continue;
      std::vector<std::string> shown;
      for (const std::string& known : labels) shown.push_back(visible_text(known));
      throw ConfigError(fmt::format("probe: there is no label {}", visible_text(label)),
                        fmt::format("one of {}", fmt::join(shown, ", ")));
    }
    tasks.push_back({positive, negative, false});
  }
  std::set<std::string> controls;
  for (const LabelledText& text : training.texts) controls.insert(text.control);
  controls.erase("");
  // Of two values the second asks the same question as the first.
  if (controls.size() == 2) controls.erase(controls.begin());
  for (const std::string& control : controls) tasks.push_back({control, "", true});
  return tasks;
}

}  // namespace

std::string TaskReport::name() const {
  return (is_control ? "control: " : "") + positive +
         (negative.empty() ? "" : " against " + negative);
}

const ProbeFigure& TaskReport::probe(std::string_view family, std::string_view method) const {
  for (const ProbeFigure& one : probes) {
    if (one.family == family && one.method == method) return one;
  }
  throw InternalError(fmt::format("no probe {}, {}", family, method));
}

std::vector<TaskReport> probe(const std::vector<ProbeSet>& sets, const ProbeOptions& options) {
  THRESHER_CHECK(sets.size() >= 2, "something to train on and something to test");
  const std::vector<Task> tasks = make_tasks(sets[0], options);
  const Families families = make_families(sets);
  std::vector<TaskReport> reports;
  for (const Task& task : tasks) {
    reports.push_back(TaskProbe(sets, families, options, task).run());
  }
  return reports;
}

}  // namespace thresher::features
