#include "activation_cache/synthetic_source.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"

namespace thresher::activation_cache {
namespace {

SyntheticWorld world_of(double zipf_exponent = 0) {
  SyntheticWorld world;
  world.seed = 11;
  world.zipf_exponent = zipf_exponent;
  return world;
}

std::string first_line_of(const SyntheticWorld& world) {
  try {
    const SyntheticSource source(world);
  } catch (const ConfigError& error) {
    return error.first_line();
  }
  return "no error";
}

TEST(SyntheticSourceTest, DirectionsHaveUnitNorm) {
  const SyntheticSource source(world_of());
  for (std::int64_t f = 0; f < 256; ++f) {
    double squares = 0;
    for (const float value : source.directions().subspan(static_cast<std::size_t>(f * 64), 64)) {
      squares += static_cast<double>(value) * static_cast<double>(value);
    }
    EXPECT_NEAR(squares, 1, 1e-6);
  }
}

TEST(SyntheticSourceTest, ARowIsTheSumOfItsFeatures) {
  const SyntheticSource source(world_of());
  for (const std::uint64_t row :
       {std::uint64_t{0}, std::uint64_t{12345}, SyntheticSource::held_out_row}) {
    std::vector<float> values(64);
    source.make_rows(row, values);
    std::vector<double> sum(64, 0);
    for (const ActiveFeature& active : source.features_of(row)) {
      EXPECT_GE(active.magnitude, 0.5F);
      EXPECT_LE(active.magnitude, 1.5F);
      for (std::size_t d = 0; d < 64; ++d) {
        sum[d] += static_cast<double>(active.magnitude) *
                  static_cast<double>(
                      source.directions()[static_cast<std::size_t>(active.feature) * 64 + d]);
      }
    }
    for (std::size_t d = 0; d < 64; ++d) EXPECT_NEAR(static_cast<double>(values[d]), sum[d], 1e-5);
  }
}

TEST(SyntheticSourceTest, LanesOfABatchAreItsRowsInOrderWhoeverAsks) {
  SyntheticSource source(world_of());
  BatchPlan plan;
  plan.batch_tokens = 32;
  plan.lanes = 4;
  source.start(plan, 0, 0, 4);
  std::vector<float> rows(32 * 64), lane(8 * 64);
  source.make_rows(3 * 32, rows);
  for (const std::int64_t l : {2, 0, 3, 1}) {
    source.read(3, l, 0, lane);
    EXPECT_TRUE(std::equal(lane.begin(), lane.end(), rows.begin() + l * 8 * 64)) << "lane " << l;
  }
}

/// Frequencies over many rows lie within five standard deviations of what the world says, and pairs
/// of features are as frequent together as independence demands.
void expect_independent_features(double zipf_exponent) {
  constexpr std::int64_t kRows = 200'000;
  const SyntheticSource source(world_of(zipf_exponent));
  std::vector<std::int64_t> fired(256, 0);
  std::int64_t total = 0;
  double pairs = 0, magnitudes = 0;
  for (std::int64_t row = 0; row < kRows; ++row) {
    const auto features = source.features_of(static_cast<std::uint64_t>(row));
    for (const ActiveFeature& active : features) {
      ++fired[static_cast<std::size_t>(active.feature)];
      magnitudes += static_cast<double>(active.magnitude);
    }
    total += static_cast<std::int64_t>(features.size());
    pairs += 0.5 * static_cast<double>(features.size()) * static_cast<double>(features.size() - 1);
  }
  double expected_total = 0, squares = 0;
  for (std::size_t f = 0; f < 256; ++f) {
    const double p = source.probabilities()[f];
    const double n = static_cast<double>(kRows);
    EXPECT_NEAR(static_cast<double>(fired[f]), n * p, 5 * std::sqrt(n * p * (1 - p)) + 1) << f;
    expected_total += p;
    squares += p * p;
  }
  EXPECT_NEAR(static_cast<double>(total) / kRows, expected_total, 0.02);
  EXPECT_NEAR(pairs / kRows, (expected_total * expected_total - squares) / 2, 0.06);
  EXPECT_NEAR(magnitudes / static_cast<double>(total), 1.0, 0.003);
}

TEST(SyntheticSourceTest, FeaturesFireIndependentlyAndEquallyOften) {
  const SyntheticSource source(world_of());
  for (const double p : source.probabilities()) EXPECT_DOUBLE_EQ(p, 3.0 / 256);
  expect_independent_features(0);
}

TEST(SyntheticSourceTest, ZipfFeaturesFireIndependentlyInProportionToTheirRank) {
  const SyntheticSource source(world_of(1));
  EXPECT_NEAR(source.probabilities()[0] / source.probabilities()[9], 10, 1e-9);
  EXPECT_NEAR(source.probabilities()[9] / source.probabilities()[99], 10, 1e-9);
  expect_independent_features(1);
}

TEST(SyntheticSourceTest, StatisticsAreTheExpectationsOfRows) {
  constexpr std::size_t kRows = 100'000;
  const SyntheticSource source(world_of());
  std::vector<float> rows(kRows * 64);
  source.make_rows(0, rows);
  const SourceStatistics& statistics = source.statistics(0);
  double norm = 0, deviation = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto value = static_cast<double>(rows[i]);
    const double centred = value - statistics.mean[i % 64];
    norm += value * value;
    deviation += centred * centred;
  }
  EXPECT_NEAR(norm / kRows / statistics.mean_squared_norm, 1, 0.01);
  EXPECT_NEAR(deviation / kRows / statistics.mean_squared_deviation, 1, 0.01);
}

TEST(SyntheticSourceTest, SamplesAreChosenByTheirSeedAndUnseenByTraining) {
  SyntheticSource source(world_of());
  std::vector<float> a(8 * 64), b(8 * 64), c(8 * 64), first_batch(8 * 64);
  source.sample_rows(0, 1, 8, a);
  source.sample_rows(0, 1, 8, b);
  source.sample_rows(0, 2, 8, c);
  source.make_rows(0, first_batch);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
  EXPECT_NE(a, first_batch);
}

TEST(SyntheticSourceTest, OtherSeedsAreOtherWorlds) {
  SyntheticWorld other = world_of();
  other.seed = 12;
  EXPECT_NE(SyntheticSource(world_of()).identity(), SyntheticSource(other).identity());
  EXPECT_NE(SyntheticSource(world_of()).directions()[0], SyntheticSource(other).directions()[0]);
}

TEST(SyntheticSourceTest, RefusesAWorldThatCannotBe) {
  SyntheticWorld world = world_of();
  world.mean_active = 129;
  EXPECT_EQ(first_line_of(world), "synthetic world: mean_active = 129");
  world = world_of();
  world.min_magnitude = 2;
  EXPECT_EQ(first_line_of(world), "synthetic world: magnitudes from 2 to 1.5");
  world = world_of();
  world.n_features = 0;
  EXPECT_EQ(first_line_of(world), "synthetic world: d_in = 64, n_features = 0");
  world = world_of();
  world.zipf_exponent = -1;
  EXPECT_EQ(first_line_of(world), "synthetic world: zipf_exponent = -1");
}

}  // namespace
}  // namespace thresher::activation_cache
