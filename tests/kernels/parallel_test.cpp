#include "kernels/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "core/error.h"
#include "tests/kernels/backends.h"
#include "tests/kernels/kernel_test.h"

namespace thresher::kernels {
namespace {

class ParallelTest : public testing::Test {
 protected:
  void TearDown() override { set_num_threads(1); }
};

TEST_F(ParallelTest, VisitsEveryItemOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    set_num_threads(threads);
    for (const std::int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
      detail::parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end) {
        for (; begin < end; ++begin) ++visits[static_cast<std::size_t>(begin)];
      });
      for (const auto& visit : visits) ASSERT_EQ(visit, 1);
    }
  }
}

TEST_F(ParallelTest, CutsByCost) {
  set_num_threads(2);
  std::atomic<std::int64_t> longest = 0;
  // The first item costs as much as the other 99.
  detail::parallel_for_cost(
      100, 1, [](std::int64_t item) { return item == 0 ? 0 : item + 98; },
      [&](std::int64_t begin, std::int64_t end) {
        longest = std::max(longest.load(), end - begin);
      });
  EXPECT_EQ(longest, 99);
}

TEST_F(ParallelTest, RunsInlineOnOneThread) {
  const auto caller = std::this_thread::get_id();
  detail::parallel_for(
      100, 1, [&](std::int64_t, std::int64_t) { EXPECT_EQ(std::this_thread::get_id(), caller); });
}

TEST_F(ParallelTest, RethrowsFromAWorkerAndStaysUsable) {
  set_num_threads(4);
  const auto fail = [](std::int64_t begin, std::int64_t) {
    if (begin > 0) throw std::runtime_error("worker");
  };
  EXPECT_THROW(detail::parallel_for(100, 1, fail), std::runtime_error);
  std::atomic<std::int64_t> items = 0;
  detail::parallel_for(100, 1, [&](std::int64_t begin, std::int64_t end) { items += end - begin; });
  EXPECT_EQ(items, 100);
}

TEST_F(ParallelTest, KeepsAThreadsNumberToItself) {
  set_num_threads(3);
  std::thread([] {
    EXPECT_EQ(num_threads(), 1);
    set_num_threads(2);
  }).join();
  EXPECT_EQ(num_threads(), 3);
  EXPECT_THROW(set_num_threads(0), InternalError);
}

TEST_F(ParallelTest, SeveralThreadsMayCallKernelsAtOnce) {
  Draws draws(61);
  const auto pre_acts = draws.reals(64 * 500);
  const auto expected = cpu_backend()->topk(64, 500, 8, pre_acts).indices;
  std::vector<std::thread> ranks;
  std::atomic<int> wrong = 0;
  for (int rank = 0; rank < 4; ++rank) {
    ranks.emplace_back([&] {
      set_num_threads(2);
      for (int i = 0; i < 20; ++i)
        wrong += cpu_backend()->topk(64, 500, 8, pre_acts).indices != expected;
    });
  }
  for (auto& rank : ranks) rank.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(ParallelTest, NumberOfThreadsChangesNoBit) {
  Draws draws(62);
  const std::int64_t rows = 200, n_latents = 300, d = 123;
  std::vector<Lane> lanes(4);
  for (Lane& lane : lanes) {
    lane.row_offsets = draws.row_offsets(rows, 16);
    const std::int64_t n_slots = lane.row_offsets.back();
    lane.indices = draws.latents(n_slots, n_latents);
    lane.values = draws.reals(n_slots);
    lane.grad_values = draws.reals(n_slots);
    lane.residuals = draws.reals(rows * d);
    lane.inputs = draws.reals(rows * d);
    lane.n_inputs = rows;
  }
  const auto W = draws.reals(n_latents * d);
  const auto run_all = [&] {
    Backend& cpu = *cpu_backend();
    std::vector<std::vector<float>> results;
    results.push_back(
        cpu.sparse_decode(d, lanes[0].row_offsets, lanes[0].indices, lanes[0].values, W, nullptr));
    results.push_back(
        cpu.grad_values(d, lanes[0].row_offsets, lanes[0].indices, lanes[0].inputs, W));
    const Residuals residuals = cpu.residuals(d, lanes[0].row_offsets, lanes[0].indices,
                                              lanes[0].values, W, nullptr, lanes[0].inputs);
    results.push_back(residuals.residuals);
    results.push_back(residuals.dots);
    const Gradients gradients = cpu.gradients(n_latents, d, lanes);
    results.push_back(gradients.W_dec);
    results.push_back(gradients.W_enc);
    results.push_back(gradients.b_enc);
    results.push_back(cpu.row_norms(n_latents, d, W));
    results.push_back(cpu.normalise_rows(n_latents, d, W));
    const Components components = cpu.parallel_components(n_latents, d, W, gradients.W_dec);
    results.push_back({components.factors.begin(), components.factors.end()});
    results.push_back({static_cast<float>(components.squares)});
    results.push_back({static_cast<float>(cpu.sum_of_squares(n_latents, d, W))});
    const auto sums = cpu.column_sums(n_latents, d, &gradients.b_enc, W);
    results.push_back({sums.begin(), sums.end()});
    auto weights = W, m = W;
    std::vector<float> v(W.size(), 0.5f);
    cpu.adam({1e-3, 0.9, 0.999, 1e-8, 3, 1.0}, gradients.W_dec, weights, m, v);
    results.push_back(weights);
    cpu.adam_unit_rows({1e-3, 0.9, 0.999, 1e-8, 3, 1.0}, d, gradients.W_dec, components.factors,
                       true, weights, m, v);
    results.push_back(weights);
    std::vector<std::vector<std::uint32_t>> patterns;
    for (const auto& result : results) patterns.push_back(bits(result));
    return patterns;
  };
  const auto expected = run_all();
  for (const int threads : {2, 3, 5}) {
    set_num_threads(threads);
    EXPECT_EQ(run_all(), expected) << threads << " threads";
  }
}

}  // namespace
}  // namespace thresher::kernels
