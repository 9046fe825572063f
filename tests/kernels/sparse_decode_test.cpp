#include "kernels/sparse_decode.h"

#include <cmath>

#include "kernels/reference.h"
#include "tests/kernels/backends.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/random_lanes.h"

namespace thresher::kernels {
namespace {

class SparseDecodeTest : public KernelTest {};

TEST_P(SparseDecodeTest, AddsScaledDecoderRowsToTheBias) {
  const std::vector<float> W_dec{1, 0, 0, 1, 5, 7};
  const std::vector<float> bias{10, 20};
  EXPECT_EQ(backend().sparse_decode(2, {0, 2, 4}, {0, 2, 1, 1}, {2, 1, 3, 0}, W_dec, &bias),
            (std::vector<float>{17, 27, 10, 23}));
  EXPECT_EQ(backend().sparse_decode(2, {0, 1}, {2}, {-1}, W_dec, nullptr),
            (std::vector<float>{-5, -7}));
}

TEST_P(SparseDecodeTest, TakesRowsOfAnyLength) {
  const std::vector<float> W_dec{1, 0, 0, 1, 5, 7};
  const std::vector<float> bias{10, 20};
  EXPECT_EQ(backend().sparse_decode(2, {0, 3, 3, 4}, {0, 1, 2, 2}, {1, 2, 3, 4}, W_dec, &bias),
            (std::vector<float>{26, 43, 10, 20, 30, 48}));
  EXPECT_EQ(backend().grad_values(2, {0, 3, 3, 4}, {0, 1, 2, 2}, {1, 10, 50, 60, 2, 3}, W_dec),
            (std::vector<float>{1, 10, 75, 31}));
}

TEST_P(SparseDecodeTest, SubtractsAndMultipliesInOneWalk) {
  const std::vector<float> W_dec{1, 0, 0, 1, 5, 7};
  const std::vector<float> bias{10, 20};
  const Residuals out = backend().residuals(2, {0, 3, 3, 4}, {0, 1, 2, 2}, {1, 2, 0, 4}, W_dec,
                                            &bias, {20, 30, 1, 2, 3, 4});
  EXPECT_EQ(out.residuals, (std::vector<float>{9, 8, -9, -18, -27, -44}));
  EXPECT_EQ(out.dots, (std::vector<float>{9, 8, 0, -443})) << "0 where the value is 0";
}

TEST_P(SparseDecodeTest, SkipsZerosEvenBesideInfiniteWeights) {
  const std::vector<float> W_dec{INFINITY, 1};
  EXPECT_EQ(backend().sparse_decode(1, {0, 2}, {0, 1}, {0, 4}, W_dec, nullptr),
            std::vector<float>{4});
}

TEST_P(SparseDecodeTest, EqualsTheReferenceBitForBitOnIntegers) {
  Draws draws(21);
  for (int round = 0; round < 250; ++round) {
    const std::int64_t rows = draws.size(0, 33), d = draws.size(1, 130);
    const std::int64_t n_latents = draws.size(1, 129);
    const Offsets row_offsets = draws.row_offsets(rows, draws.size(0, 40));
    const std::int64_t n_slots = row_offsets.back();
    const auto indices = draws.latents(n_slots, n_latents);
    const auto values = draws.integers(n_slots), W_dec = draws.integers(n_latents * d);
    const auto grad_recon = draws.integers(rows * d), bias = draws.integers(d);
    const auto* some_bias = draws.integer(0, 1) == 0 ? &bias : nullptr;
    std::vector<float> recon(static_cast<std::size_t>(rows * d)),
        grads(static_cast<std::size_t>(n_slots));
    reference::sparse_decode(rows, d, row_offsets.data(), indices.data(), values.data(),
                             W_dec.data(), some_bias != nullptr ? bias.data() : nullptr,
                             recon.data());
    reference::sparse_decode_grad_values(rows, d, row_offsets.data(), indices.data(),
                                         grad_recon.data(), W_dec.data(), grads.data());
    ASSERT_EQ(backend().sparse_decode(d, row_offsets, indices, values, W_dec, some_bias), recon);
    ASSERT_EQ(backend().grad_values(d, row_offsets, indices, grad_recon, W_dec), grads);
    reference::sparse_residuals(rows, d, row_offsets.data(), indices.data(), values.data(),
                                W_dec.data(), some_bias != nullptr ? bias.data() : nullptr,
                                grad_recon.data(), recon.data(), grads.data());
    const Residuals out =
        backend().residuals(d, row_offsets, indices, values, W_dec, some_bias, grad_recon);
    ASSERT_EQ(out.residuals, recon);
    ASSERT_EQ(out.dots, grads);
  }
}

TEST_P(SparseDecodeTest, GivesTheBitsOfTheCpuOnRealNumbers) {
  Draws draws(22);
  for (const std::int64_t d : {1, 7, 16, 31, 576, 769}) {
    const std::int64_t rows = 20, n_latents = 50;
    const Offsets row_offsets = draws.row_offsets(rows, 40);
    const std::int64_t n_slots = row_offsets.back();
    const auto indices = draws.latents(n_slots, n_latents);
    const auto values = draws.reals(n_slots), W_dec = draws.reals(n_latents * d);
    const auto grad_recon = draws.reals(rows * d), bias = draws.reals(d);
    Backend& cpu = *cpu_backend();
    EXPECT_EQ(bits(backend().sparse_decode(d, row_offsets, indices, values, W_dec, &bias)),
              bits(cpu.sparse_decode(d, row_offsets, indices, values, W_dec, &bias)));
    const Residuals out =
        backend().residuals(d, row_offsets, indices, values, W_dec, &bias, grad_recon);
    const Residuals cpu_out =
        cpu.residuals(d, row_offsets, indices, values, W_dec, &bias, grad_recon);
    EXPECT_EQ(bits(out.residuals), bits(cpu_out.residuals));
    EXPECT_EQ(bits(out.dots), bits(cpu_out.dots));
    const auto grads = backend().grad_values(d, row_offsets, indices, grad_recon, W_dec);
    EXPECT_EQ(bits(grads), bits(cpu.grad_values(d, row_offsets, indices, grad_recon, W_dec)));
    std::vector<float> expected(grads.size());
    reference::sparse_decode_grad_values(rows, d, row_offsets.data(), indices.data(),
                                         grad_recon.data(), W_dec.data(), expected.data());
    for (std::size_t i = 0; i < grads.size(); ++i) EXPECT_NEAR(grads[i], expected[i], 1e-4);
  }
}

class GradientsTest : public KernelTest {};

TEST_P(GradientsTest, SumsTheRowsOfEachLatent) {
  Lane lane{{0, 2, 4}, {1, 0, 1, 1}, {2, 3, 4, 0}, {5, 6, 7, 100}, {1, 10, 5, 50}, {1, 2, 3, 4}, 2};
  const std::vector<Lane> lanes{lane};
  const Gradients out = backend().gradients(3, 2, lanes);
  EXPECT_EQ(out.W_dec, (std::vector<float>{3, 30, 22, 220, 0, 0}));
  EXPECT_EQ(out.W_enc, (std::vector<float>{6, 12, 26, 38, 0, 0}));
  EXPECT_EQ(out.b_enc, (std::vector<float>{6, 12, 0}));
}

TEST_P(GradientsTest, TakesTheInputsAgainForMoreRows) {
  const Lane lane{{0, 1, 2}, {0, 0}, {1, 1}, {3, 4}, {1, 10, 5, 50}, {1, 2}, 1};
  const Gradients out = backend().gradients(1, 2, std::vector<Lane>{lane});
  EXPECT_EQ(out.W_dec, (std::vector<float>{6, 60}));
  EXPECT_EQ(out.W_enc, (std::vector<float>{7, 14}));
}

TEST_P(GradientsTest, EqualsTheReferenceBitForBitOnIntegers) {
  Draws draws(23);
  for (int round = 0; round < 250; ++round) {
    const std::int64_t n_lanes = std::int64_t{1} << draws.integer(0, 4);
    const std::int64_t k = draws.integer(1, 6), n_latents = draws.size(1, 65),
                       d = draws.size(1, 130);
    const auto lanes = random_lanes(draws, n_lanes, 12, k, n_latents, d, true);
    const Gradients expected = expected_gradients(n_latents, d, lanes);
    const Gradients out = backend().gradients(n_latents, d, lanes);
    ASSERT_EQ(out.W_dec, expected.W_dec);
    ASSERT_EQ(out.W_enc, expected.W_enc);
    ASSERT_EQ(out.b_enc, expected.b_enc);
  }
}

TEST_P(GradientsTest, OneLatentMayBeInEveryRow) {
  Draws draws(26);
  auto lanes = random_lanes(draws, 2, 300, 3, 1, 33, true);
  const Gradients expected = expected_gradients(4, 33, lanes);
  EXPECT_EQ(backend().gradients(4, 33, lanes).W_dec, expected.W_dec);
  EXPECT_EQ(backend().gradients(4, 33, lanes).W_enc, expected.W_enc);
}

TEST_P(GradientsTest, SplitsALatentThatManyRowsHaveInOneLane) {
  Draws draws(27);
  for (const std::int64_t d : {1, 4, 33, 64}) {
    const auto lanes = random_lanes(draws, 1, 900, 3, 2, d, true);
    const Gradients expected = expected_gradients(3, d, lanes);
    const Gradients out = backend().gradients(3, d, lanes);
    EXPECT_EQ(out.W_dec, expected.W_dec);
    EXPECT_EQ(out.W_enc, expected.W_enc);
    EXPECT_EQ(out.b_enc, expected.b_enc);
  }
}

TEST_P(GradientsTest, HalvesOfTheLanesAddUpToTheSameBits) {
  Draws draws(24);
  for (int round = 0; round < 50; ++round) {
    const std::int64_t k = 4, n_latents = draws.size(1, 40), d = draws.size(1, 40);
    const auto lanes = random_lanes(draws, 8, 9, k, n_latents, d, false);
    const std::span<const Lane> all(lanes);
    const Gradients whole = backend().gradients(n_latents, d, all);
    const Gradients left = backend().gradients(n_latents, d, all.first(4));
    const Gradients right = backend().gradients(n_latents, d, all.last(4));
    const auto add = [](std::vector<float> to, const std::vector<float>& from) {
      for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
      return bits(to);
    };
    ASSERT_EQ(bits(whole.W_dec), add(left.W_dec, right.W_dec));
    ASSERT_EQ(bits(whole.W_enc), add(left.W_enc, right.W_enc));
    ASSERT_EQ(bits(whole.b_enc), add(left.b_enc, right.b_enc));
  }
}

TEST_P(GradientsTest, GivesTheBitsOfTheCpuOnRealNumbers) {
  Draws draws(25);
  for (const std::int64_t d : {1, 97, 576}) {
    const auto lanes = random_lanes(draws, 8, 40, 8, 60, d, false);
    const Gradients out = backend().gradients(60, d, lanes);
    const Gradients expected = cpu_backend()->gradients(60, d, lanes);
    EXPECT_EQ(bits(out.W_dec), bits(expected.W_dec));
    EXPECT_EQ(bits(out.W_enc), bits(expected.W_enc));
    EXPECT_EQ(bits(out.b_enc), bits(expected.b_enc));
  }
}

INSTANTIATE_TEST_SUITE_P(On, SparseDecodeTest, testing::ValuesIn(backends_under_test()),
                         backend_name);
INSTANTIATE_TEST_SUITE_P(On, GradientsTest, testing::ValuesIn(backends_under_test()), backend_name);

}  // namespace
}  // namespace thresher::kernels
