#include "trainer/batch_rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "core/error.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kLaneRows = 4;

/// Row values name step, lane and hook point; writes down which steps were read, and fails at one.
class NamedSource : public activation_cache::ActivationSource {
 public:
  const std::vector<activation_cache::HookPointWidth>& hook_points() const override {
    return hooks_;
  }
  Json identity() const override { return {}; }
  const activation_cache::SourceStatistics& statistics(std::size_t) const override {
    return statistics_;
  }
  void sample_rows(std::size_t, std::uint64_t, std::int64_t, std::span<float>) override {}
  void start(const activation_cache::BatchPlan&, std::int64_t, std::int64_t,
             std::int64_t) override {}
  std::int64_t steps_per_epoch() const override { return 100; }
  std::int64_t n_dropped_rows_per_epoch() const override { return 0; }
  void read(std::int64_t step, std::int64_t lane, std::size_t hook, std::span<float> out) override {
    if (step == bad_step) throw IoError("a.h5: read failed");
    if (lane == 2) steps_read.push_back(step);
    for (float& value : out) {
      value = static_cast<float>(100 * step + 10 * lane) + static_cast<float>(hook);
    }
  }
  std::int64_t bad_step = -1;
  std::vector<std::int64_t> steps_read;

 private:
  std::vector<activation_cache::HookPointWidth> hooks_{{"a", 3}, {"b", 5}, {"c", 2}};
  activation_cache::SourceStatistics statistics_;
};

/// SAEs at the first and at the last hook point; the first scales by 2 after taking off 1.
std::vector<TrainedSae> two_saes() {
  std::vector<TrainedSae> saes;
  for (const std::size_t hook : {0, 2}) {
    TrainedSae trained;
    trained.hook_index = hook;
    trained.sae = sae::make_training_sae(*tiny_topk(), hook == 0 ? 3 : 2);
    trained.transform.scale = hook == 0 ? 2 : 1;
    trained.centre = at::full({hook == 0 ? 3 : 2}, hook == 0 ? 1.0 : 0.0, at::kFloat);
    saes.push_back(std::move(trained));
  }
  return saes;
}

TEST(BatchRowsTest, GivesEverySaeItsTransformOfTheLocalLanes) {
  for (const bool reads_ahead : {false, true}) {
    NamedSource source;
    const std::vector<TrainedSae> saes = two_saes();
    BatchRows rows(source, saes, kLaneRows, 2, 2, 9, reads_ahead);
    for (const std::int64_t step : {5, 6, 7, 8}) {
      rows.take(step);
      const auto first = static_cast<float>(100 * step + 20);
      const std::vector<at::Tensor>& a = rows.inputs_of(saes[0]);
      ASSERT_EQ(a.size(), 2U);
      EXPECT_TRUE(at::equal(a[0], at::full({kLaneRows, 3}, 2 * (first - 1))));
      EXPECT_TRUE(at::equal(a[1], at::full({kLaneRows, 3}, 2 * (first + 10 - 1))));
      EXPECT_TRUE(at::equal(rows.inputs_of(saes[1])[1], at::full({kLaneRows, 2}, first + 12)));
    }
    // Each hook point that an SAE looks at, once a step and none beyond the end.
    EXPECT_EQ(source.steps_read, (std::vector<std::int64_t>{5, 5, 6, 6, 7, 7, 8, 8}));
  }
}

TEST(BatchRowsTest, AStepOutOfTurnIsReadAnew) {
  NamedSource source;
  const std::vector<TrainedSae> saes = two_saes();
  BatchRows rows(source, saes, kLaneRows, 0, 1, 100, true);
  for (const std::int64_t step : {3, 4, 20, 21, 3}) {
    rows.take(step);
    EXPECT_EQ(rows.inputs_of(saes[1])[0][0][0].item<float>(), static_cast<float>(100 * step + 2));
  }
}

TEST(BatchRowsTest, AnErrorOfReadingAheadComesOutAtItsStep) {
  NamedSource source;
  source.bad_step = 4;
  const std::vector<TrainedSae> saes = two_saes();
  BatchRows rows(source, saes, kLaneRows, 0, 1, 100, true);
  EXPECT_NO_THROW(rows.take(3));
  EXPECT_EQ(first_line_of([&] { rows.take(4); }), "a.h5: read failed");
}

}  // namespace
}  // namespace thresher::trainer
