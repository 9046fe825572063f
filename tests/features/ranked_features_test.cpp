#include "features/ranked_features.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "features/statistics.h"

namespace thresher::features {
namespace {

TEST(RankedFeatures, OneProductGivesEveryAuroc) {
  const std::int64_t n = 57, n_features = 1030;  // more than a block
  at::Tensor values = at::empty({n, n_features}, at::kFloat);
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    values.data_ptr<float>()[i] = static_cast<float>((i * i * 31 + i) % 11);  // many ties
  }
  std::vector<std::uint8_t> labels;
  for (std::int64_t i = 0; i < n; ++i) labels.push_back(i % 3 == 0 ? 1 : 0);
  const RankedFeatures ranked(values);
  const std::vector<double> aurocs = ranked.aurocs(labels);
  ASSERT_EQ(aurocs.size(), 1030U);
  for (const std::int64_t feature : {0, 1, 512, 1023, 1024, 1029}) {
    std::vector<double> column;
    for (std::int64_t i = 0; i < n; ++i) column.push_back(values[i][feature].item<double>());
    EXPECT_DOUBLE_EQ(aurocs[static_cast<std::size_t>(feature)], auroc(column, labels)) << feature;
    EXPECT_DOUBLE_EQ(ranked.tie_terms()[static_cast<std::size_t>(feature)],
                     tie_term(midranks(column)));
  }
}

TEST(RankedFeatures, LabelsOfOneKindGiveNoFigure) {
  const RankedFeatures ranked(at::arange(6, at::kFloat).view({3, 2}));
  EXPECT_TRUE(std::isnan(ranked.aurocs(std::vector<std::uint8_t>{1, 1, 1})[0]));
}

TEST(RankedFeatures, TheBestAreThoseOnTheWantedSide) {
  const std::vector<double> aurocs = {0.5, 0.1, 0.8, NAN, 0.8, 0.75};
  EXPECT_EQ(best_features(aurocs, 3, false), (std::vector<std::int64_t>{2, 4, 5}));
  EXPECT_EQ(best_features(aurocs, 2, true), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(best_features(aurocs, 99, false).size(), 6U);
}

}  // namespace
}  // namespace thresher::features
