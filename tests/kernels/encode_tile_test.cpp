#include "kernels/detail/encode_tile_device.h"

#include <array>
#include <set>

#include "kernels/detail/bfloat16_device.h"
#include "kernels/detail/encode_plan.h"
#include "tests/kernels/kernel_test.h"

namespace thresher::kernels::detail {
namespace {

constexpr std::uint32_t kThreads = kEncodeThreads;

TEST(TensorTile, CopiesEveryChunkOfAStageOnceToAPlaceOfItsOwn) {
  std::set<std::uint32_t> chunks, places;
  for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
    for (std::uint32_t i = 0; i < TensorTile::kCopies; ++i) {
      const std::uint32_t row = TensorTile::copy_row(thread, i);
      const std::uint32_t chunk = TensorTile::copy_chunk(thread);
      ASSERT_LT(row, TensorTile::kStageRows);
      chunks.insert(row * TensorTile::kRowChunks + chunk);
      places.insert(TensorTile::place(row, chunk));
    }
  }
  EXPECT_EQ(chunks.size(), TensorTile::kStageChunks);
  EXPECT_EQ(places.size(), TensorTile::kStageChunks);
  EXPECT_EQ(*places.rbegin(), TensorTile::kStageChunks - 1);
}

TEST(TensorTile, ReadsEightRowsFromEightDifferentGroupsOfBanks) {
  for (std::uint32_t first = 0; first < kThreads; first += 8) {  // the threads of one matrix
    for (std::uint32_t step = 0; step < TensorTile::kSteps; ++step) {
      std::set<std::uint32_t> of_x, of_W;
      for (std::uint32_t thread = first; thread < first + 8; ++thread) {
        of_x.insert(TensorTile::x_place(thread, 1, step) % 8);
        of_W.insert(TensorTile::W_place(thread, 1, step) % 8);
      }
      ASSERT_EQ(of_x.size(), 8U);
      ASSERT_EQ(of_W.size(), 8U);
    }
  }
}

template <class Tile>
void expect_every_sum_once() {
  std::set<std::uint32_t> sums;
  for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
    for (std::uint32_t i = 0; i < Tile::kThreadRows; ++i) {
      for (std::uint32_t j = 0; j < Tile::kThreadCols; ++j) {
        ASSERT_LT(Tile::row(thread, i), kEncodeRows);
        ASSERT_LT(Tile::col(thread, j), Tile::kCols);
        sums.insert(Tile::row(thread, i) * Tile::kCols + Tile::col(thread, j));
      }
    }
  }
  EXPECT_EQ(sums.size(), kEncodeRows * Tile::kCols);
}
TEST(TensorTile, GivesEverySumToOneThread) { expect_every_sum_once<TensorTile>(); }
TEST(FusedTile, GivesEverySumToOneThread) { expect_every_sum_once<FusedTile>(); }

/// A chunk of a stage as memory holds it.
using Chunk = std::array<std::uint16_t, TensorTile::kChunk>;
/// What ldmatrix.x4 gives every thread of a warp: of matrix m the two neighbours 2 * (lane % 4) of
/// the row lane / 4, whose address the lane 8 * m + lane / 4 has given.
struct Registers {
  float at[4][2];
};
template <class Place>
Registers load_matrices(const std::vector<Chunk>& stage, std::uint32_t thread, Place place) {
  Registers out{};
  const std::uint32_t warp = thread / 32 * 32, lane = thread % 32;
  for (std::uint32_t m = 0; m < 4; ++m) {
    const Chunk& row = stage[place(warp + 8 * m + lane / 4)];
    for (std::uint32_t e = 0; e < 2; ++e) out.at[m][e] = from_bfloat16(row[2 * (lane % 4) + e]);
  }
  return out;
}

/// A stage multiplied as the PTX ISA describes mma.m16n8k16 (row.col): of a thread with group =
/// lane / 4 and t = lane % 4, registers 0 to 3 of the first operand hold (row group, k 2t), (group
/// + 8, 2t), (group, 2t + 8), (group + 8, 2t + 8) and the next k; those of the second (k 2t, column
/// group), (2t + 8, group); those of the sums (row group, column 2t), the next column, and the same
/// of row group + 8.
void multiply(const std::vector<Chunk>& stage, std::vector<float>& sums) {
  using Tile = TensorTile;
  for (std::uint32_t warp = 0; warp < kThreads; warp += 32) {
    for (std::uint32_t step = 0; step < Tile::kSteps; ++step) {
      for (std::uint32_t i = 0; i < Tile::kRowTiles; ++i) {
        float x[16][16];
        for (std::uint32_t thread = warp; thread < warp + 32; ++thread) {
          const Registers r = load_matrices(
              stage, thread, [&](std::uint32_t t) { return Tile::x_place(t, i, step); });
          const std::uint32_t group = thread % 32 / 4, k = thread % 4 * 2;
          for (std::uint32_t e = 0; e < 2; ++e) {
            x[group][k + e] = r.at[0][e];
            x[group + 8][k + e] = r.at[1][e];
            x[group][k + 8 + e] = r.at[2][e];
            x[group + 8][k + 8 + e] = r.at[3][e];
          }
        }
        for (std::uint32_t j = 0; j < Tile::kColTiles; ++j) {
          float W[16][8];
          for (std::uint32_t thread = warp; thread < warp + 32; ++thread) {
            const Registers r = load_matrices(
                stage, thread, [&](std::uint32_t t) { return Tile::W_place(t, j / 2, step); });
            const std::uint32_t group = thread % 32 / 4, k = thread % 4 * 2;
            for (std::uint32_t e = 0; e < 2; ++e) {
              W[k + e][group] = r.at[j % 2 * 2][e];
              W[k + 8 + e][group] = r.at[j % 2 * 2 + 1][e];
            }
          }
          for (std::uint32_t thread = warp; thread < warp + 32; ++thread) {
            const std::uint32_t group = thread % 32 / 4, t = thread % 4;
            for (std::uint32_t e = 0; e < 4; ++e) {
              const std::uint32_t row = group + e / 2 * 8, col = 2 * t + e % 2;
              float sum = 0;
              for (std::uint32_t k = 0; k < 16; ++k) sum += x[row][k] * W[k][col];
              // Where TensorProduct::sum looks for register e of product (i, j).
              sums[Tile::row(thread, 2 * i + e / 2) * Tile::kCols +
                   Tile::col(thread, 2 * j + e % 2)] += sum;
            }
          }
        }
      }
    }
  }
}

TEST(TensorTile, MultipliesByTheLayoutOfItsFragments) {
  Draws draws(81);
  for (const std::int64_t depth : {64, 16, 8, 1, 23}) {  // the rest of a stage is zero
    const auto values = draws.integers(TensorTile::kStageRows * depth);
    std::vector<Chunk> stage(TensorTile::kStageChunks, Chunk{});
    const auto at = [&](std::uint32_t row, std::int64_t k) {
      return values[static_cast<std::size_t>(row * depth + k)];
    };
    for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
      for (std::uint32_t i = 0; i < TensorTile::kCopies; ++i) {
        const std::uint32_t row = TensorTile::copy_row(thread, i);
        const std::uint32_t chunk = TensorTile::copy_chunk(thread);
        for (std::uint32_t e = 0; e < TensorTile::kChunk; ++e) {
          const std::int64_t k = chunk * TensorTile::kChunk + e;
          if (k < depth) stage[TensorTile::place(row, chunk)][e] = to_bfloat16(at(row, k));
        }
      }
    }
    std::vector<float> sums(kEncodeRows * TensorTile::kCols);
    multiply(stage, sums);
    for (std::uint32_t r = 0; r < kEncodeRows; ++r) {
      for (std::uint32_t c = 0; c < TensorTile::kCols; ++c) {
        float expected = 0;
        for (std::int64_t k = 0; k < depth; ++k) expected += at(r, k) * at(kEncodeRows + c, k);
        ASSERT_EQ(sums[r * TensorTile::kCols + c], expected) << "row " << r << ", column " << c;
      }
    }
  }
}

TEST(FusedTile, CopiesEveryElementOfAStageOnceToAPlaceOfItsOwn) {
  std::set<std::uint32_t> elements, places;
  for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
    for (std::uint32_t i = 0; i < FusedTile::kCopies; ++i) {
      for (std::uint32_t e = 0; e < 4; ++e) {
        const std::uint32_t row = FusedTile::copy_row(thread, i);
        const std::uint32_t element = 4 * FusedTile::copy_quad(thread) + e;
        elements.insert(row * FusedTile::kDepth + element);
        places.insert(FusedTile::place(row, element));
      }
    }
  }
  EXPECT_EQ(elements.size(), (kEncodeRows + FusedTile::kCols) * FusedTile::kDepth);
  EXPECT_EQ(places.size(), elements.size());
  EXPECT_LT(*places.rbegin(), FusedTile::kStageFloats);
}

TEST(FusedTile, ReadsFourNeighboursAtAlignedPlaces) {
  for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
    for (const std::uint32_t half : {0U, 4U}) {
      EXPECT_EQ(FusedTile::place(FusedTile::row(thread, half), 3) % 4, 0U);
      EXPECT_EQ(FusedTile::place(kEncodeRows + FusedTile::col(thread, half), 5) % 4, 0U);
      for (std::uint32_t i = 1; i < 4; ++i) {
        EXPECT_EQ(FusedTile::row(thread, half + i), FusedTile::row(thread, half) + i);
        EXPECT_EQ(FusedTile::col(thread, half + i), FusedTile::col(thread, half) + i);
      }
    }
  }
}

TEST(EncodePlan, CoversAllRowsAndLatentsWithoutEmptyParts) {
  Draws draws(82);
  for (int trial = 0; trial < 300; ++trial) {
    const std::int64_t rows = draws.integer(1, 20'000), n = draws.integer(1, 300'000);
    const std::int64_t k = draws.integer(1, std::min<std::int64_t>(n, 300));
    const std::int64_t masked_k =
        draws.integer(0, 1) * draws.integer(1, std::min<std::int64_t>(n, 2000));
    const EncodePlan plan = plan_encode(rows, n, k, masked_k, 256, draws.integer(1, 400));
    EXPECT_EQ(plan.split_latents % 256, 0);
    EXPECT_GE(plan.splits * plan.split_latents, n);
    EXPECT_LT((plan.splits - 1) * plan.split_latents, n) << "the last part is not empty";
    EXPECT_TRUE(plan.rows == rows || (plan.rows < rows && plan.rows % kEncodeRows == 0));
    EXPECT_LE(encode_row_bytes(plan.splits, k, masked_k) * plan.rows, kEncodeWorkBytes);
  }
}

TEST(EncodePlan, FillsTheDeviceAtTheSizeOfAWideSae) {
  const EncodePlan h100 = plan_encode(8192, 65536, 64, 0, 256, 132);
  EXPECT_EQ(h100.splits, 2) << "64 row tiles, 128 blocks on 132 processors";
  EXPECT_EQ(h100.rows, 8192);
  const EncodePlan few_rows = plan_encode(100, 65536, 64, 0, 256, 132);
  EXPECT_EQ(few_rows.splits, 64);
  EXPECT_EQ(plan_encode(1, 1, 1, 0, 256, 132).splits, 1);
}

}  // namespace
}  // namespace thresher::kernels::detail
