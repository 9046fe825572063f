#include "sae/metrics.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/sae/sae_testing.h"

namespace thresher::sae {
namespace {

using testing::normal_values;

constexpr std::int64_t kDim = 7;
constexpr std::int64_t kLatents = 10;

struct Data {
  at::Tensor x, recon, latents;
};

Data make_data(double mean) {
  const at::Tensor x = normal_values({300, kDim}, 1) + mean;
  at::Tensor latents = (normal_values({300, kLatents}, 3) - 1).relu();
  latents.select(1, 4).zero_();                               // dead
  latents.select(1, 5).copy_(normal_values({300}, 4).abs());  // dense
  return {x, x + 0.3 * normal_values({300, kDim}, 2), latents};
}

/// All rows at once, two passes, float64.
double brute_force_fvu(const Data& data) {
  const at::Tensor x = data.x.to(at::kDouble);
  const at::Tensor error = x - data.recon.to(at::kDouble);
  return (error.square().sum() / (x - x.mean(0)).square().sum()).item<double>();
}

void add_in_parts(ReconstructionMetrics& metrics, const Data& data, std::int64_t first,
                  std::int64_t end) {
  const std::int64_t sizes[] = {1, 50, 13};
  for (std::int64_t part = 0; first < end; ++part) {
    const std::int64_t rows = std::min(sizes[part % 3], end - first);
    metrics.add(data.x.narrow(0, first, rows), data.recon.narrow(0, first, rows),
                data.latents.narrow(0, first, rows));
    first += rows;
  }
}

class MetricsTest : public ::testing::TestWithParam<double> {};
INSTANTIATE_TEST_SUITE_P(Means, MetricsTest, ::testing::Values(0.0, 1e4));

TEST_P(MetricsTest, StreamingEqualsBruteForce) {
  const Data data = make_data(GetParam());
  ReconstructionMetrics metrics(kDim, kLatents);
  add_in_parts(metrics, data, 0, 300);
  const at::Tensor x = data.x.to(at::kDouble);
  const at::Tensor recon = data.recon.to(at::kDouble);
  const double fvu = brute_force_fvu(data);
  EXPECT_NEAR(metrics.fvu() / fvu, 1, 1e-12);
  EXPECT_NEAR(metrics.explained_variance(), 1 - fvu, 1e-12);
  EXPECT_NEAR(metrics.mse() / (x - recon).square().mean().item<double>(), 1, 1e-12);
  const at::Tensor cosines = (x * recon).sum(1) / (x.norm(2, 1) * recon.norm(2, 1));
  EXPECT_NEAR(metrics.cosine_similarity(), cosines.mean().item<double>(), 1e-12);
  EXPECT_EQ(metrics.l0(), data.latents.gt(0).sum(1).to(at::kDouble).mean().item<double>());
  EXPECT_NEAR(metrics.l1(), data.latents.to(at::kDouble).sum(1).mean().item<double>(), 1e-12);
  EXPECT_EQ(metrics.dead_fraction(), 0.1);
  EXPECT_EQ(metrics.dense_fraction(0.99), 0.1);
  EXPECT_EQ(metrics.dense_fraction(0.01), 0.9);
  EXPECT_EQ(metrics.n_tokens(), 300);
  EXPECT_EQ(metrics.fire_counts()[5], 300);
}

TEST_P(MetricsTest, RanksTogetherHaveTheBitsOfOneThatMergesBatchByBatch) {
  const Data data = make_data(GetParam());
  ReconstructionMetrics one(kDim, kLatents);
  for (const auto& [first, end] : {std::pair{0, 40}, {40, 300}}) {
    ReconstructionMetrics part(kDim, kLatents);
    add_in_parts(part, data, first, end);
    one.merge(part);
  }
  EXPECT_NEAR(one.fvu() / brute_force_fvu(data), 1, 1e-12);
  // Ranks 0 and 2 have no rows.
  const std::int64_t first[] = {0, 0, 40, 40};
  const std::int64_t end[] = {0, 40, 40, 300};
  comm::run_thread_ranks(4, 60, [&](comm::Communicator& comm) {
    ReconstructionMetrics part(kDim, kLatents), metrics(kDim, kLatents);
    add_in_parts(part, data, first[comm.rank()], end[comm.rank()]);
    metrics.merge_ranks(end[comm.rank()] > first[comm.rank()] ? &part : nullptr, comm);
    EXPECT_EQ(metrics.json().dump(), one.json().dump());
    EXPECT_EQ(metrics.fire_counts(), one.fire_counts());
  });
}

TEST(MetricsTest, MergedPartsEqualTheWhole) {
  const Data data = make_data(1e4);
  ReconstructionMetrics a(kDim, kLatents), b(kDim, kLatents);
  add_in_parts(a, data, 0, 100);
  add_in_parts(b, data, 100, 300);
  a.merge(ReconstructionMetrics::from_bytes(kDim, kLatents, b.to_bytes()));
  EXPECT_NEAR(a.fvu() / brute_force_fvu(data), 1, 1e-12);
  EXPECT_EQ(a.n_tokens(), 300);
  EXPECT_EQ(a.dead_fraction(), 0.1);
}

TEST(MetricsTest, HasNoValueWithoutRowsOrVariance) {
  ReconstructionMetrics metrics(kDim, kLatents);
  EXPECT_TRUE(std::isnan(metrics.fvu()));
  EXPECT_TRUE(std::isnan(metrics.l0()));
  const at::Tensor same = at::full({4, kDim}, 3.0, at::kFloat);
  metrics.add(same, same, {});
  EXPECT_TRUE(std::isnan(metrics.fvu()));
  EXPECT_EQ(metrics.mse(), 0.0);
  EXPECT_EQ(metrics.json().dump(),
            R"({"fvu":null,"explained_variance":null,"mse":0.0,"cosine_similarity":1.0,)"
            R"("n_tokens":4})");
}

TEST(MetricsTest, CountsAZeroVectorsCosineAsZero) {
  ReconstructionMetrics metrics(2, 1);
  metrics.add(at::tensor({1.0f, 0.0f, 0.0f, 0.0f}).reshape({2, 2}),
              at::tensor({2.0f, 0.0f, 1.0f, 0.0f}).reshape({2, 2}), {});
  EXPECT_EQ(metrics.cosine_similarity(), 0.5);
}

TEST(MetricsTest, PutsLatentsIntoDensityBins) {
  // Over 1000 rows: never, once (10^-3), 200 times (10^-0.7), always (10^0).
  at::Tensor latents = at::zeros({1000, 4}, at::kFloat);
  latents.select(1, 1)[0] = 1;
  latents.select(1, 2).narrow(0, 0, 200).fill_(1);
  latents.select(1, 3).fill_(1);
  const at::Tensor x = normal_values({1000, 2}, 1);
  ReconstructionMetrics metrics(2, 4);
  metrics.add(x, x, latents);
  EXPECT_EQ(metrics.density_histogram().dump(),
            R"({"log10_edges":[-6.0,-5.5,-5.0,-4.5,-4.0,-3.5,-3.0,-2.5,-2.0,-1.5,-1.0,-0.5,0.0],)"
            R"("counts":[0,0,0,0,0,0,1,0,0,0,1,1],"silent":1})");
}

TEST(MetricsTest, ShowsNan) {
  ReconstructionMetrics metrics(2, 1);
  metrics.add(at::tensor({1.0f, 0.0f}).reshape({1, 2}),
              at::tensor({std::nanf(""), 0.0f}).reshape({1, 2}), {});
  EXPECT_TRUE(std::isnan(metrics.mse()));
  EXPECT_TRUE(std::isnan(metrics.cosine_similarity()));
}

}  // namespace
}  // namespace thresher::sae
