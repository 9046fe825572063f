#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "core/random.h"
#include "features/co_firing.h"
#include "features/feature_store.h"
#include "features/firing_log.h"
#include "features/latent_lists.h"

namespace thresher::features {
namespace {

TEST(Histogram, QuartersOfADoublingAreBinsAndTheEndsHoldTheRest) {
  EXPECT_EQ(histogram_bin(1.0F), 48);
  EXPECT_EQ(histogram_bin(1.18F), 48);
  EXPECT_EQ(histogram_bin(1.19F), 49);  // 2^(1/4) = 1.1892
  EXPECT_EQ(histogram_bin(1.99F), 51);
  EXPECT_EQ(histogram_bin(2.0F), 52);
  EXPECT_EQ(histogram_bin(1e-30F), 0);
  EXPECT_EQ(histogram_bin(1e30F), 127);
  EXPECT_DOUBLE_EQ(histogram_edge(48), 1.0);
  EXPECT_DOUBLE_EQ(histogram_edge(52), 2.0);
  for (const float value : {0.003F, 0.7F, 17.3F, 900.0F}) {
    EXPECT_LE(histogram_edge(histogram_bin(value)), value);
    EXPECT_GT(histogram_edge(histogram_bin(value) + 1), value);
  }
}

std::vector<std::vector<float>> as_rows(const LatentLists& lists, std::int64_t n) {
  std::vector<std::vector<float>> out;
  for (std::int64_t latent = 0; latent < n; ++latent) {
    std::vector<float> row;
    const auto add = [&](const ContextPeak& peak) {
      row.push_back(peak.activation);
      row.push_back(static_cast<float>(peak.context));
      row.push_back(static_cast<float>(peak.position));
    };
    for (const ContextPeak& peak : lists.top(latent)) add(peak);
    for (const ContextPeak& peak : lists.sampled(latent)) add(peak);
    out.push_back(row);
  }
  return out;
}

TEST(LatentLists, KeepTheStrongestAndGiveTiesToTheLowerContext) {
  LatentLists lists(1, 3, 0, 7);
  lists.offer(0, {2.0F, 5, 9});
  lists.offer(0, {2.0F, 4, 8});
  lists.offer(0, {1.0F, 0, 1});
  lists.offer(0, {3.0F, 1, 20});
  lists.offer(0, {2.0F, 3, 10});
  ASSERT_EQ(lists.top(0).size(), 3U);
  EXPECT_EQ(lists.top(0)[0].context, 20);
  EXPECT_EQ(lists.top(0)[1].context, 8);
  EXPECT_EQ(lists.top(0)[2].context, 9);
}

TEST(LatentLists, DependNeitherOnTheOrderOfOffersNorOnTheirSplit) {
  constexpr std::int64_t kLatents = 5, kContexts = 300;
  const RandomStream values(1, "test.values");
  std::vector<std::pair<std::int64_t, ContextPeak>> offers;
  for (std::int64_t latent = 0; latent < kLatents; ++latent) {
    for (std::int64_t context = 0; context < kContexts; ++context) {
      const std::uint64_t index = latent * kContexts + context;
      const auto value = static_cast<float>(values.below(index, 40) + 1);  // many ties
      offers.push_back({latent, {value, static_cast<std::int32_t>(index % 13), context}});
    }
  }
  LatentLists forwards(kLatents, 6, 9, 3), backwards(kLatents, 6, 9, 3), part(kLatents, 6, 9, 3);
  for (const auto& [latent, peak] : offers) forwards.offer(latent, peak);
  for (std::size_t i = 0; i < offers.size(); ++i) {
    LatentLists& owner = i % 3 == 0 ? part : backwards;
    const auto& [latent, peak] = offers[offers.size() - 1 - i];
    owner.offer(latent, peak);
  }
  backwards.merge(0, 2, part.pack(0, 2));
  backwards.merge(2, kLatents, part.pack(2, kLatents));
  EXPECT_EQ(as_rows(forwards, kLatents), as_rows(backwards, kLatents));
}

TEST(LatentLists, DrawContextsWithoutRegardToTheirActivations) {
  // 2,000 latents, 50 contexts of activations 1 to 50: the mean of what is drawn is 25.5.
  LatentLists lists(2000, 1, 10, 11);
  double sum = 0;
  for (std::int64_t latent = 0; latent < 2000; ++latent) {
    for (std::int64_t context = 0; context < 50; ++context) {
      lists.offer(latent, {static_cast<float>(context + 1), 0, context});
    }
    ASSERT_EQ(lists.sampled(latent).size(), 10U);
    for (const ContextPeak& peak : lists.sampled(latent)) sum += peak.activation;
  }
  // The mean of 10 of 50 without replacement has deviation 4.1; of 2,000 such means 0.09.
  EXPECT_NEAR(sum / 20000, 25.5, 0.4);
}

std::vector<std::int32_t> firing_of(std::int64_t token, const RandomStream& draws) {
  std::set<std::int32_t> latents;
  for (std::uint64_t i = 0; i < 6; ++i) {
    latents.insert(static_cast<std::int32_t>(draws.below(token * 6 + i, 12)));
  }
  return {latents.begin(), latents.end()};
}

TEST(CoFiringSample, OfASmallTextCountsEveryPair) {
  const RandomStream draws(5, "test.firing");
  CoFiringSample sample(1 << 20, 2);
  std::map<std::pair<int, int>, int> both;
  std::map<int, int> alone;
  for (std::int64_t token = 0; token < 200; ++token) {
    const std::vector<std::int32_t> latents = firing_of(token, draws);
    for (const std::int32_t a : latents) {
      ++alone[a];
      for (const std::int32_t b : latents) ++both[{a, b}];
    }
    sample.offer(token, latents);
  }
  EXPECT_TRUE(sample.is_complete());
  EXPECT_EQ(sample.n_tokens(), 200);
  sample.count(12, 11, [&](std::int64_t latent, const auto& partners) {
    ASSERT_EQ(partners.size(), 11U);
    double last = 1;
    for (const CoFiringSample::Partner& one : partners) {
      const int a = static_cast<int>(latent), b = static_cast<int>(one.latent);
      EXPECT_EQ(one.n_both, (both[{a, b}]));
      const double n_both = static_cast<double>(one.n_both);
      EXPECT_DOUBLE_EQ(one.jaccard, n_both / (alone[a] + alone[b] - n_both));
      EXPECT_DOUBLE_EQ(one.pmi, std::log(n_both * 200.0 / (1.0 * alone[a] * alone[b])));
      EXPECT_LE(one.jaccard, last);
      last = one.jaccard;
    }
  });
}

TEST(CoFiringSample, OfALargeTextIsTheSameHoweverTheTokensCome) {
  const RandomStream draws(5, "test.firing");
  const auto partners_of = [](const CoFiringSample& sample) {
    std::vector<std::int64_t> out;
    sample.count(12, 4, [&](std::int64_t, const auto& partners) {
      for (const CoFiringSample::Partner& one : partners) {
        out.push_back(one.latent);
        out.push_back(one.n_both);
      }
    });
    return out;
  };
  constexpr std::int64_t kPairs = 2000;
  CoFiringSample whole(kPairs, 2), first(kPairs, 2), second(kPairs, 2);
  for (std::int64_t token = 0; token < 1000; ++token) {
    whole.offer(token, firing_of(token, draws));
    const std::int64_t other = 999 - token;
    (other % 3 == 0 ? first : second).offer(other, firing_of(other, draws));
  }
  first.merge(second.pack());
  EXPECT_FALSE(whole.is_complete());
  EXPECT_GT(whole.n_tokens(), 60);
  EXPECT_LT(whole.n_tokens(), 200);
  EXPECT_EQ(whole.n_tokens(), first.n_tokens());
  EXPECT_EQ(partners_of(whole), partners_of(first));
}

TEST(FiringLog, GivesBackWhatWasWritten) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "firing.log";
  ContextFirings one;
  one.context = 17;
  one.token_ids = {5, 6, 7};
  one.documents = {0, 0, 1};
  one.firings = {{2, 0, 1.5F}, {2, 2, 0.5F}, {9, 1, 3.0F}};
  ContextFirings empty;
  empty.context = 18;
  {
    FiringLogWriter writer(path);
    writer.add(one);
    writer.add(empty);
    writer.finish();
  }
  FiringLogReader reader(path);
  const auto first = reader.next();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->token_ids, one.token_ids);
  ASSERT_EQ(first->of_latent(2).size(), 2U);
  EXPECT_EQ(first->of_latent(2)[1].position, 2);
  EXPECT_TRUE(first->of_latent(3).empty());
  EXPECT_EQ(reader.next()->context, 18);
  EXPECT_FALSE(reader.next());
}

}  // namespace
}  // namespace thresher::features
