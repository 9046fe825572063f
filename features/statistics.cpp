#include "features/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/random.h"

namespace thresher::features {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::vector<std::size_t> ascending_order(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  return order;
}

/// Sums of one group that its mean and variance are made of; `weight` counts a value that often.
struct Moments {
  double n = 0, sum = 0, squares = 0;
  void add(double value, double weight) {
    n += weight;
    sum += weight * value;
    squares += weight * value * value;
  }
  double mean() const { return sum / n; }
  double squared_deviations() const { return std::max(0.0, squares - sum * sum / n); }
};

double effect_size(const Moments& positive, const Moments& negative) {
  if (positive.n < 2 || negative.n < 2) return kNan;
  const double difference = positive.mean() - negative.mean();
  const double variance = (positive.squared_deviations() + negative.squared_deviations()) /
                          (positive.n + negative.n - 2);
  if (difference == 0) return 0;
  return difference / std::sqrt(variance);
}

/// Adjusted p-values by a rule on the sorted ones: `factor(i)` multiplies the i-th smallest, and a
/// running extreme keeps their order.
template <class Factor>
std::vector<double> adjust(std::span<const double> p_values, bool from_largest, Factor&& factor) {
  const std::vector<std::size_t> order = ascending_order(p_values);
  const std::size_t n = order.size();
  std::vector<double> adjusted(n);
  double running = from_largest ? 1 : 0;
  for (std::size_t step = 0; step < n; ++step) {
    const std::size_t i = from_largest ? n - 1 - step : step;
    const double value = std::min(1.0, p_values[order[i]] * factor(i));
    running = from_largest ? std::min(running, value) : std::max(running, value);
    adjusted[order[i]] = running;
  }
  return adjusted;
}

}  // namespace

std::vector<double> midranks(std::span<const double> values) {
  const std::vector<std::size_t> order = ascending_order(values);
  std::vector<double> ranks(values.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t end = first + 1;
    while (end < order.size() && values[order[end]] == values[order[first]]) ++end;
    for (std::size_t i = first; i < end; ++i) {
      ranks[order[i]] = 0.5 * static_cast<double>(first + 1 + end);
    }
    first = end;
  }
  return ranks;
}

double auroc_of_rank_sum(double rank_sum, std::int64_t n_positive, std::int64_t n_negative) {
  if (n_positive == 0 || n_negative == 0) return kNan;
  const auto n1 = static_cast<double>(n_positive), n0 = static_cast<double>(n_negative);
  return (rank_sum - n1 * (n1 + 1) / 2) / (n1 * n0);
}

double auroc(std::span<const double> scores, std::span<const std::uint8_t> is_positive) {
  const std::vector<double> ranks = midranks(scores);
  double rank_sum = 0;
  std::int64_t n_positive = 0;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (is_positive[i] == 0) continue;
    rank_sum += ranks[i];
    ++n_positive;
  }
  return auroc_of_rank_sum(rank_sum, n_positive,
                           static_cast<std::int64_t>(scores.size()) - n_positive);
}

double tie_term(std::span<const double> ranks) {
  // Ranks 1 ... n have the sum of squares n (n + 1) (2 n + 1) / 6; t equal ones lose (t^3 - t)
  // / 12.
  const auto n = static_cast<double>(ranks.size());
  double squares = 0;
  for (const double rank : ranks) squares += rank * rank;
  return 12 * (n * (n + 1) * (2 * n + 1) / 6 - squares);
}

double mann_whitney_p(double auroc, std::int64_t n_positive, std::int64_t n_negative,
                      double tie_term) {
  if (n_positive == 0 || n_negative == 0) return kNan;
  const auto n1 = static_cast<double>(n_positive), n0 = static_cast<double>(n_negative);
  const double n = n1 + n0;
  const double variance = n1 * n0 / 12 * (n + 1 - tie_term / (n * (n - 1)));
  if (!(variance > 1e-9)) return 1;
  const double z = (std::abs(auroc - 0.5) * n1 * n0 - 0.5) / std::sqrt(variance);
  return std::min(1.0, std::erfc(z / std::sqrt(2.0)));
}

double cohens_d(std::span<const double> scores, std::span<const std::uint8_t> is_positive) {
  Moments positive, negative;
  // About a common origin: sums of squares of large, close values would cancel.
  const double origin = scores.empty() ? 0 : scores[0];
  for (std::size_t i = 0; i < scores.size(); ++i) {
    (is_positive[i] != 0 ? positive : negative).add(scores[i] - origin, 1);
  }
  return effect_size(positive, negative);
}

std::vector<double> benjamini_hochberg(std::span<const double> p_values) {
  const auto n = static_cast<double>(p_values.size());
  return adjust(p_values, true, [n](std::size_t i) { return n / static_cast<double>(i + 1); });
}

std::vector<double> holm(std::span<const double> p_values) {
  const auto n = static_cast<double>(p_values.size());
  return adjust(p_values, false, [n](std::size_t i) { return n - static_cast<double>(i); });
}

double quantile(std::vector<double> values, double q) {
  std::erase_if(values, [](double value) { return std::isnan(value); });
  if (values.empty()) return kNan;
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  if (values[below] == values[above]) return values[below];  // infinities among them
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

double percentile_rank(std::span<const double> values, double value) {
  double below = 0;
  for (const double one : values) below += one < value ? 1 : one == value ? 0.5 : 0;
  return below / static_cast<double>(values.size());
}

Interval central_interval(const std::vector<double>& values) {
  return {quantile(values, 0.025), quantile(values, 0.975)};
}

DocumentBootstrap::DocumentBootstrap(std::span<const std::int64_t> clusters,
                                     std::vector<std::uint8_t> is_positive,
                                     std::int64_t n_resamples, std::uint64_t seed,
                                     std::string_view purpose)
    : is_positive_(std::move(is_positive)), n_resamples_(n_resamples) {
  THRESHER_CHECK(clusters.size() == is_positive_.size(), "one cluster a document");
  std::map<std::int64_t, std::size_t> numbers;
  for (const std::int64_t cluster : clusters) {
    cluster_of_.push_back(numbers.emplace(cluster, numbers.size()).first->second);
  }
  const std::size_t n = numbers.size();
  n_clusters_ = static_cast<std::int64_t>(n);
  weights_.assign(n * static_cast<std::size_t>(n_resamples), 0);
  const RandomStream random(seed, purpose);
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    std::uint16_t& weight = weights_[i / n * n + random.below(i, n)];
    if (weight < std::numeric_limits<std::uint16_t>::max()) ++weight;
  }
}

std::vector<double> DocumentBootstrap::auroc(std::span<const double> scores) const {
  THRESHER_CHECK(scores.size() == is_positive_.size(), "one score a document");
  const std::vector<std::size_t> order = ascending_order(scores);
  std::vector<double> out;
  for (std::size_t resample = 0; resample < static_cast<std::size_t>(n_resamples_); ++resample) {
    double n_positive = 0, n_negative = 0, pairs = 0;
    for (std::size_t first = 0; first < order.size();) {
      double tied_positive = 0, tied_negative = 0;
      std::size_t i = first;
      for (; i < order.size() && scores[order[i]] == scores[order[first]]; ++i) {
        (is_positive_[order[i]] != 0 ? tied_positive : tied_negative) += weight(resample, order[i]);
      }
      pairs += tied_positive * (n_negative + 0.5 * tied_negative);
      n_positive += tied_positive;
      n_negative += tied_negative;
      first = i;
    }
    out.push_back(n_positive > 0 && n_negative > 0 ? pairs / (n_positive * n_negative) : kNan);
  }
  return out;
}

std::vector<double> DocumentBootstrap::cohens_d(std::span<const double> scores) const {
  THRESHER_CHECK(scores.size() == is_positive_.size(), "one score a document");
  const double origin = scores.empty() ? 0 : scores[0];
  std::vector<double> out;
  for (std::size_t resample = 0; resample < static_cast<std::size_t>(n_resamples_); ++resample) {
    Moments positive, negative;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      (is_positive_[i] != 0 ? positive : negative).add(scores[i] - origin, weight(resample, i));
    }
    out.push_back(effect_size(positive, negative));
  }
  return out;
}

}  // namespace thresher::features
