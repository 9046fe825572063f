#include "kernels/sparse_decode.h"

#include <cmath>

#include "kernels/reference.h"
#include "tests/kernels/backends.h"
#include "tests/kernels/kernel_test.h"

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
    const auto grads = backend().grad_values(d, row_offsets, indices, grad_recon, W_dec);
    EXPECT_EQ(bits(grads), bits(cpu.grad_values(d, row_offsets, indices, grad_recon, W_dec)));
    std::vector<float> expected(grads.size());
    reference::sparse_decode_grad_values(rows, d, row_offsets.data(), indices.data(),
                                         grad_recon.data(), W_dec.data(), expected.data());
    for (std::size_t i = 0; i < grads.size(); ++i) EXPECT_NEAR(grads[i], expected[i], 1e-4);
  }
}

/// Lanes with at most `k` pairs a row; about one pair in four is silent.
std::vector<Lane> random_lanes(Draws& draws, std::int64_t n_lanes, std::int64_t max_rows,
                               std::int64_t k, std::int64_t n_latents, std::int64_t d,
                               bool is_integer) {
  std::vector<Lane> lanes(static_cast<std::size_t>(n_lanes));
  for (Lane& lane : lanes) {
    const std::int64_t rows = draws.integer(0, max_rows);
    lane.row_offsets = draws.row_offsets(rows, k);
    const std::int64_t n_slots = lane.row_offsets.back();
    lane.indices = draws.latents(n_slots, n_latents);
    lane.values = draws.reals(n_slots);
    for (float& value : lane.values) value = draws.integer(0, 3) == 0 ? 0.0f : value;
    lane.coefficients = is_integer ? draws.integers(n_slots) : draws.reals(n_slots);
    lane.inputs = is_integer ? draws.integers(rows * d) : draws.reals(rows * d);
  }
  return lanes;
}

class AccumulateTest : public KernelTest {};

TEST_P(AccumulateTest, SumsTheRowsOfEachLatent) {
  const Lane lane{{0, 2, 4}, {1, 0, 1, 1}, {1, 1, 1, 0}, {2, 3, 4, 100}, {1, 10, 5, 50}};
  const std::vector<Lane> lanes{lane};
  EXPECT_EQ(backend().latent_rows(3, 2, lanes), (std::vector<float>{3, 30, 22, 220, 0, 0}));
  EXPECT_EQ(backend().latent_scalars(3, lanes), (std::vector<float>{3, 6, 0}));
}

TEST_P(AccumulateTest, EqualsTheReferenceBitForBitOnIntegers) {
  Draws draws(23);
  for (int round = 0; round < 250; ++round) {
    const std::int64_t n_lanes = std::int64_t{1} << draws.integer(0, 4);
    const std::int64_t k = draws.integer(1, 6), n_latents = draws.size(1, 65),
                       d = draws.size(1, 70);
    const auto lanes = random_lanes(draws, n_lanes, 12, k, n_latents, d, true);
    std::vector<float> rows(static_cast<std::size_t>(n_latents * d)), part(rows.size());
    for (const Lane& lane : lanes) {
      reference::accumulate_latent_rows(
          rows_of(lane.row_offsets), n_latents, d, lane.row_offsets.data(), lane.indices.data(),
          lane.values.data(), lane.coefficients.data(), lane.inputs.data(), part.data());
      for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += part[i];
    }
    ASSERT_EQ(backend().latent_rows(n_latents, d, lanes), rows);
    std::vector<float> scalars(static_cast<std::size_t>(n_latents));
    for (const Lane& lane : lanes) {
      for (std::size_t slot = 0; slot < lane.indices.size(); ++slot) {
        if (lane.values[slot] != 0.0f) {
          scalars[static_cast<std::size_t>(lane.indices[slot])] += lane.coefficients[slot];
        }
      }
    }
    ASSERT_EQ(backend().latent_scalars(n_latents, lanes), scalars);
  }
}

TEST_P(AccumulateTest, HalvesOfTheLanesAddUpToTheSameBits) {
  Draws draws(24);
  for (int round = 0; round < 50; ++round) {
    const std::int64_t k = 4, n_latents = draws.size(1, 40), d = draws.size(1, 40);
    const auto lanes = random_lanes(draws, 8, 9, k, n_latents, d, false);
    const std::span<const Lane> all(lanes);
    const auto add = [](std::vector<float> left, const std::vector<float>& right) {
      for (std::size_t i = 0; i < left.size(); ++i) left[i] += right[i];
      return bits(left);
    };
    ASSERT_EQ(bits(backend().latent_rows(n_latents, d, all)),
              add(backend().latent_rows(n_latents, d, all.first(4)),
                  backend().latent_rows(n_latents, d, all.last(4))));
    ASSERT_EQ(bits(backend().latent_scalars(n_latents, all)),
              add(backend().latent_scalars(n_latents, all.first(4)),
                  backend().latent_scalars(n_latents, all.last(4))));
  }
}

TEST_P(AccumulateTest, GivesTheBitsOfTheCpuOnRealNumbers) {
  Draws draws(25);
  const auto lanes = random_lanes(draws, 8, 40, 8, 60, 97, false);
  EXPECT_EQ(bits(backend().latent_rows(60, 97, lanes)),
            bits(cpu_backend()->latent_rows(60, 97, lanes)));
  EXPECT_EQ(bits(backend().latent_scalars(60, lanes)),
            bits(cpu_backend()->latent_scalars(60, lanes)));
}

INSTANTIATE_TEST_SUITE_P(On, SparseDecodeTest, testing::ValuesIn(backends_under_test()),
                         backend_name);
INSTANTIATE_TEST_SUITE_P(On, AccumulateTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace thresher::kernels
