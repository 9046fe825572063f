#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "features/document_pooling.h"
#include "features/labelled_texts.h"
#include "features/statistics.h"

namespace thresher::features {

/// Labelled documents and what was computed on them.
struct ProbeSet {
  std::string name;
  std::vector<LabelledText> texts;
  PooledDocuments pooled;
};

/// A direction in the activation's space whose projection is tested.
struct ProbeDirection {
  std::string name;
  at::Tensor vector;  // [d_model] float32
};

struct ProbeOptions {
  std::vector<std::int64_t> sparse_ks = {1, 2, 5, 16};
  std::int64_t n_best = 5;       // latents a label that are tested one by one
  std::int64_t n_random = 199;   // random directions
  std::int64_t n_shuffles = 99;  // of the labels
  std::int64_t n_resamples = 1000;
  std::uint64_t seed = 0;
  /// Labels to tell apart, beside each label from all others.
  std::vector<std::pair<std::string, std::string>> contrasts;
  std::vector<ProbeDirection> directions;
};

/// How well a score tells a test set's positives from its negatives.
struct TestFigure {
  double auroc = 0, d = 0;
  Interval auroc_interval, d_interval;  // 95 %, over keys
};

/// Anything that scores documents, fitted and chosen on the training set alone.
struct ProbeFigure {
  std::string family;  // "sae", "untrained", "raw", "layer 0", "tokens", "direction"
  std::string method;  // "best", "sparse 5", "logistic", "difference of means", ...
  std::vector<std::int64_t> features;  // latents or token ids that it uses; empty: all
  double training_auroc = 0;
  std::vector<TestFigure> tests;            // one a test set
  std::vector<std::vector<double>> scores;  // of the test sets' documents of the task
  std::string name() const { return family + ", " + method; }
};

struct LatentFigure {
  std::int64_t latent = 0;
  double training_auroc = 0, training_d = 0;
  double p = 1, adjusted_p = 1, family_p = 1;  // raw; Benjamini-Hochberg; Holm; over all latents
  std::vector<TestFigure> tests;
};

/// A percentile of what chance gives, one a test set.
struct ChanceFigure {
  std::int64_t n = 0;
  std::vector<double> mean, p95;
};

/// A probe against a baseline on one test set.
struct Verdict {
  std::string baseline;
  bool is_chance = false;  // auroc is a percentile of what chance gives, and has no interval
  double auroc = 0;
  Interval interval;    // of the baseline's AUROC
  Interval difference;  // 95 % of probe minus baseline over the same resamples
  enum class Outcome { kAbove, kNoBetter, kBelow } outcome = Outcome::kNoBetter;
};

/// One question: which documents are of `positive`, and not of `negative` (empty: any other)?
struct TaskReport {
  std::string positive, negative;
  bool is_control = false;  // asked of the control attribute
  std::vector<std::pair<std::int64_t, std::int64_t>>
      counts;                         // positives, negatives: training, tests
  std::vector<LatentFigure> latents;  // the best on training, best first
  /// Latents with an AUROC above 0.5 on training whose p-value stays below 0.05: of a false
  /// discovery rate, and of any false rejection.
  std::int64_t n_discoveries = 0, n_family = 0;
  std::vector<ProbeFigure> probes;
  ChanceFigure random;    // directions, signs chosen on training
  ChanceFigure shuffled;  // the best latent for shuffled labels
  /// Of the best latent and of the widest sparse probe, a list a test set.
  std::vector<std::vector<Verdict>> best_latent, sparse_probe;
  /// Labels of the scores in `probes`: a list a test set.
  std::vector<std::vector<std::uint8_t>> test_labels;

  std::string name() const;  // "fr", "fr against es", "control: 1"
  const ProbeFigure& probe(std::string_view family, std::string_view method) const;
};

/// Answers each question (every label against the rest, the contrasts, the control attribute where
/// texts have one). sets[0] is trained on, the others are tested. A test set without one of a
/// question's groups has NaN figures. ConfigError for less than two labels, a contrast with a label
/// that is not there, and a label with fewer than two documents on either side of the training set.
std::vector<TaskReport> probe(const std::vector<ProbeSet>& sets, const ProbeOptions& options);

}  // namespace thresher::features
