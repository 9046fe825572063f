#include "trainer/stragglers.h"

#include <gtest/gtest.h>

#include <thread>

namespace thresher::trainer {
namespace {

TEST(StragglersTest, ARankIsSlowAboveOneAndAHalfMedians) {
  EXPECT_EQ(slow_ranks({1.0, 1.0, 1.5, 1.51}), (std::vector<int>{3}));
  EXPECT_EQ(slow_ranks({3.0, 1.0}), (std::vector<int>{0}));
  EXPECT_EQ(slow_ranks({1.0, 1.2, 0.9}), std::vector<int>{});
  EXPECT_EQ(slow_ranks({}), std::vector<int>{});
}

TEST(StragglersTest, CountsWhatARankComputesAndNotItsWaits) {
  std::vector<double> seconds;
  comm::run_thread_ranks(2, 30, [&](comm::Communicator& comm) {
    Stragglers stragglers(comm);
    for (std::int64_t step = 1; step <= Stragglers::kWindowSteps; ++step) {
      if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      comm.barrier("step");
      const auto window = stragglers.after_step();
      EXPECT_EQ(window.has_value(), step == Stragglers::kWindowSteps);
      if (window && comm.is_root()) seconds = *window;
    }
  });
  ASSERT_EQ(seconds.size(), 2U);
  // Rank 0 waited for as long as rank 1 slept.
  EXPECT_GT(seconds[1], 0.19);
  EXPECT_LT(seconds[0], seconds[1]);
}

}  // namespace
}  // namespace thresher::trainer
