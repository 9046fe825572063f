#include <gtest/gtest.h>

#include "core/error.h"
#include "kernels/adam.h"
#include "kernels/topk.h"
#include "tests/kernels/backend.h"

// What the dispatchers refuse before any backend is asked.

namespace thresher::kernels {
namespace {

using Indices = std::vector<std::int32_t>;

std::string refusal(std::int64_t rows, std::int64_t cols, std::int64_t k,
                    const std::vector<std::uint8_t>* mask) {
  std::vector<float> pre_acts(static_cast<std::size_t>(rows * cols)), values(64);
  Indices indices(64);
  try {
    if (mask == nullptr) {
      topk({}, rows, cols, k, pre_acts.data(), values.data(), indices.data());
    } else {
      topk_masked({}, rows, cols, k, pre_acts.data(), mask->data(), values.data(), indices.data());
    }
  } catch (const InternalError& error) {
    return error.what();
  }
  return "no error";
}

TEST(TopKArgumentsTest, RefusesMoreThanTheRowHolds) {
  EXPECT_EQ(refusal(1, 3, 4, nullptr), "topk: k = 4, expected 1 <= k <= cols = 3");
  EXPECT_EQ(refusal(1, 3, 0, nullptr), "topk: k = 0, expected 1 <= k <= cols = 3");
}

TEST(TopKArgumentsTest, RefusesMoreThanTheMaskLeaves) {
  const std::vector<std::uint8_t> mask{1, 0, 0};
  EXPECT_EQ(refusal(1, 3, 2, &mask), "topk_masked: k = 2, but the mask leaves 1 of 3 columns");
}

TEST(AccumulateArgumentsTest, RefusesLanesThatAreNoPowerOfTwo) {
  const Lane lane;
  const SortedLane sorted(lane, 1);
  const std::vector<LatentPairs> views(3, sorted.view(lane));
  float out = 0;
  EXPECT_THROW(accumulate_gradients({}, 1, 1, 3, views.data(), &out, &out, &out), InternalError);
}

TEST(AdamArgumentsTest, CountsStepsFromOne) {
  EXPECT_THROW(adam({}, {1e-3, 0.9, 0.999, 1e-8, 0, 1.0}, 0, nullptr, nullptr, nullptr, nullptr),
               InternalError);
}

TEST(AccumulateArgumentsTest, LeavesOutWhatNobodyWants) {
  const std::vector<std::int64_t> offsets{0, 2, 3};
  const std::vector<std::int32_t> pair_rows{0, 1, 1}, pair_slots{0, 1, 2};
  const std::vector<float> values{1, 2, 3}, grad_values{4, 5, 6};
  const std::vector<float> residuals{1, 10, 2, 20}, inputs{3, 30, 4, 40};
  std::vector<float> W_dec(4, -1), W_enc(4, -1), b_enc(2, -1);
  LatentPairs lane{offsets.data(), pair_rows.data(), pair_slots.data(), values.data(),
                   nullptr,        residuals.data(), nullptr,           2};
  accumulate_gradients({}, 2, 2, 1, &lane, W_dec.data(), nullptr, nullptr);
  EXPECT_EQ(W_dec, (std::vector<float>{5, 50, 6, 60}));
  lane = {offsets.data(),     pair_rows.data(), pair_slots.data(), nullptr,
          grad_values.data(), nullptr,          inputs.data(),     2};
  accumulate_gradients({}, 2, 2, 1, &lane, nullptr, W_enc.data(), b_enc.data());
  EXPECT_EQ(W_enc, (std::vector<float>{32, 320, 24, 240}));
  EXPECT_EQ(b_enc, (std::vector<float>{9, 6}));
  EXPECT_THROW(accumulate_gradients({}, 2, 2, 1, &lane, nullptr, W_enc.data(), nullptr),
               InternalError);
}

}  // namespace
}  // namespace thresher::kernels
