#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace thresher::features {

/// Statistics of two groups of scores, in float64. Scores are finite; `is_positive` has one entry a
/// score. What a group too small leaves undefined is NaN, which JSON shows as null.

/// Ranks from 1, equal values sharing the mean of theirs.
std::vector<double> midranks(std::span<const double> values);

/// The probability that a score drawn from the positives exceeds one drawn from the negatives,
/// equal ones counting half: the area under the ROC curve. NaN where a group is empty.
double auroc(std::span<const double> scores, std::span<const std::uint8_t> is_positive);
/// The same from the sum of the positives' midranks.
double auroc_of_rank_sum(double rank_sum, std::int64_t n_positive, std::int64_t n_negative);

/// Sum of t^3 - t over the groups of t equal values, from their midranks' sum of squares: what ties
/// take from the variance of the ranks.
double tie_term(std::span<const double> ranks);
/// Two-sided p-value of an AUROC under "both groups have one distribution" (Mann and Whitney 1947):
/// normal approximation, corrected for ties, continuity corrected. 1 where all scores are equal.
double mann_whitney_p(double auroc, std::int64_t n_positive, std::int64_t n_negative,
                      double tie_term);

/// Difference of the groups' means over their pooled standard deviation (Cohen 1988). NaN where a
/// group has fewer than two members; 0 where nothing varies and the means are equal, else infinite.
double cohens_d(std::span<const double> scores, std::span<const std::uint8_t> is_positive);

/// p-values adjusted so that those at most alpha have a false discovery rate of at most alpha
/// (Benjamini and Hochberg 1995), in the order given.
std::vector<double> benjamini_hochberg(std::span<const double> p_values);
/// The same for the probability of a single false rejection (Holm 1979).
std::vector<double> holm(std::span<const double> p_values);

/// The q-quantile, 0 <= q <= 1, linear between order statistics (NumPy's default). NaN values are
/// left out; NaN if none is left.
double quantile(std::vector<double> values, double q);
/// Share of `values` that lie below `value`, equal ones counting half.
double percentile_rank(std::span<const double> values, double value);

struct Interval {
  double low = 0, high = 0;
  bool operator==(const Interval&) const = default;
};
/// The central 95 % of values, see quantile.
Interval central_interval(const std::vector<double>& values);

/// Resamples of documents with replacement. Documents of one cluster (the same section in several
/// languages, excerpts of one text) come and go together, since they are no independent evidence.
/// All statistics of one object use the same resamples, so differences between two of them are
/// paired. A resample without one of the groups gives NaN.
class DocumentBootstrap {
 public:
  /// `clusters` numbers each document's cluster, any numbers. Resample r draws as many clusters as
  /// there are; draws are functions of (seed, purpose, index).
  DocumentBootstrap(std::span<const std::int64_t> clusters, std::vector<std::uint8_t> is_positive,
                    std::int64_t n_resamples, std::uint64_t seed, std::string_view purpose);

  /// One value a resample.
  std::vector<double> auroc(std::span<const double> scores) const;
  std::vector<double> cohens_d(std::span<const double> scores) const;
  std::int64_t n_clusters() const { return n_clusters_; }

 private:
  double weight(std::size_t resample, std::size_t document) const {
    return weights_[resample * static_cast<std::size_t>(n_clusters_) + cluster_of_[document]];
  }

  std::vector<std::size_t> cluster_of_;  // 0 ... n_clusters - 1
  std::vector<std::uint8_t> is_positive_;
  std::int64_t n_clusters_ = 0, n_resamples_ = 0;
  std::vector<std::uint16_t> weights_;  // [n_resamples, n_clusters]: how often each was drawn
};

}  // namespace thresher::features
