#include "features/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace thresher::features {
namespace {

const std::vector<double> kScores = {0, 0, 1, 2, 2, 3, 5, 0, 2, 4};
const std::vector<std::uint8_t> kLabels = {0, 0, 0, 1, 0, 1, 1, 1, 0, 1};

// Expected values: scipy 1.17 (rankdata, mannwhitneyu, false_discovery_control), NumPy.

TEST(Statistics, EqualValuesShareTheMeanOfTheirRanks) {
  EXPECT_EQ(midranks(kScores), (std::vector<double>{2, 2, 4, 6, 6, 8, 10, 2, 6, 9}));
}

TEST(Statistics, AurocCountsPairsAndHalvesTies) {
  EXPECT_DOUBLE_EQ(auroc(kScores, kLabels), 0.8);
  EXPECT_DOUBLE_EQ(auroc(std::vector<double>{1, 1, 1, 1}, std::vector<std::uint8_t>{0, 1, 0, 1}),
                   0.5);
  EXPECT_DOUBLE_EQ(auroc(std::vector<double>{1, 2, 3}, std::vector<std::uint8_t>{1, 0, 0}), 0);
  EXPECT_TRUE(std::isnan(auroc(std::vector<double>{1, 2}, std::vector<std::uint8_t>{1, 1})));
}

TEST(Statistics, MannWhitneyEqualsScipyWithTies) {
  EXPECT_DOUBLE_EQ(tie_term(midranks(kScores)), 48);  // two groups of three: 2 (27 - 3)
  EXPECT_NEAR(mann_whitney_p(0.8, 5, 5, 48), 0.1338621447554309, 1e-12);
  EXPECT_NEAR(mann_whitney_p(0.2, 5, 5, 48), 0.1338621447554309, 1e-12);
  EXPECT_EQ(mann_whitney_p(0.5, 5, 5, 48), 1);
  EXPECT_EQ(mann_whitney_p(0.5, 2, 2, 60), 1);  // all four equal
}

TEST(Statistics, CohensDDividesByThePooledDeviation) {
  EXPECT_NEAR(cohens_d(kScores, kLabels), 1.1741905314961958, 1e-12);
  EXPECT_EQ(cohens_d(std::vector<double>{1, 1, 1, 1}, std::vector<std::uint8_t>{0, 1, 0, 1}), 0);
  EXPECT_EQ(cohens_d(std::vector<double>{1, 2, 1, 2}, std::vector<std::uint8_t>{0, 1, 0, 1}),
            INFINITY);
  EXPECT_TRUE(
      std::isnan(cohens_d(std::vector<double>{1, 2, 3}, std::vector<std::uint8_t>{1, 0, 0})));
  // Far from zero: the same up to what the input itself loses.
  std::vector<double> shifted = kScores;
  for (double& score : shifted) score += 1e9;
  EXPECT_NEAR(cohens_d(shifted, kLabels), 1.1741905314961958, 1e-9);
}

TEST(Statistics, CorrectionsKeepTheOrderGiven) {
  const std::vector<double> p = {0.001, 0.04, 0.03, 0.2, 0.008};
  const std::vector<double> rate = benjamini_hochberg(p), family = holm(p);
  const std::vector<double> expected_rate = {0.005, 0.05, 0.05, 0.2, 0.02};
  const std::vector<double> expected_family = {0.005, 0.09, 0.09, 0.2, 0.032};
  for (std::size_t i = 0; i < p.size(); ++i) {
    EXPECT_NEAR(rate[i], expected_rate[i], 1e-15) << i;
    EXPECT_NEAR(family[i], expected_family[i], 1e-15) << i;
  }
}

TEST(Statistics, QuantilesAreLinearBetweenOrderStatistics) {
  EXPECT_DOUBLE_EQ(quantile({8, 1, 4, 2}, 0.3), 1.9);
  EXPECT_DOUBLE_EQ(quantile({NAN, 3}, 0.9), 3);
  EXPECT_TRUE(std::isnan(quantile({}, 0.5)));
  EXPECT_DOUBLE_EQ(percentile_rank(std::vector<double>{1, 2, 2, 3}, 2), 0.5);
}

TEST(Statistics, AResampleWeighsWholeClusters) {
  // Two clusters, each with a positive above its negative; across clusters the order is reversed.
  // Any resample of one cluster alone has AUROC 1, one of both 0.75.
  const std::vector<std::int64_t> clusters = {7, 7, 9, 9};
  const DocumentBootstrap bootstrap(clusters, {1, 0, 1, 0}, 400, 3, "test");
  EXPECT_EQ(bootstrap.n_clusters(), 2);
  const std::vector<double> scores = {4, 3, 2, 1};
  std::int64_t n_whole = 0;
  for (const double value : bootstrap.auroc(scores)) {
    EXPECT_TRUE(value == 1 || value == 0.75) << value;
    n_whole += value == 0.75 ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(n_whole), 200, 40);  // half of the draws of two have both
}

TEST(Statistics, ResamplesGiveTheTextbookErrorOfAMean) {
  // Cohen's d of two groups of 100: standard error sqrt(2/100 + d^2/400) (Hedges and Olkin 1985).
  std::vector<double> scores;
  std::vector<std::uint8_t> labels;
  std::vector<std::int64_t> clusters;
  for (int i = 0; i < 200; ++i) {
    scores.push_back(std::sin(i * 12.9898) * 2 + (i % 2 == 0 ? 1 : 0));
    labels.push_back(i % 2 == 0 ? 1 : 0);
    clusters.push_back(i);
  }
  const DocumentBootstrap bootstrap(clusters, labels, 2000, 5, "test");
  const double d = cohens_d(scores, labels);
  const Interval interval = central_interval(bootstrap.cohens_d(scores));
  EXPECT_NEAR(interval.high - interval.low, 2 * 1.96 * std::sqrt(0.02 + d * d / 400), 0.06);
  EXPECT_LT(interval.low, d);
  EXPECT_GT(interval.high, d);
}

TEST(Statistics, TheSameSeedGivesTheSameResamples) {
  const std::vector<std::int64_t> clusters = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  const DocumentBootstrap a(clusters, kLabels, 50, 1, "x"), b(clusters, kLabels, 50, 1, "x"),
      c(clusters, kLabels, 50, 2, "x");
  const Interval first = central_interval(a.auroc(kScores));
  EXPECT_EQ(first, central_interval(b.auroc(kScores)));
  EXPECT_NE(first, central_interval(c.auroc(kScores)));
}

}  // namespace
}  // namespace thresher::features
