#pragma once

#include <cstdint>

#include "kernels/detail/device_code.h"
#include "kernels/detail/encode_topk_device.h"

// Where everything in the two tiles of encode_topk lies: which thread copies what to where in
// shared memory, which addresses it reads, and which sums it ends with. Pure functions of the
// thread, so that tests walk through a tile with them.

namespace thresher::kernels::detail {

/// The tile of bfloat16 operands: 8 warps of 64 x 64 sums in tensor-core products of 16 x 8 x 16
/// (PTX ISA, mma.m16n8k16, which also shows the layout of its fragments). A stage in shared memory
/// holds kDepth elements of kEncodeRows rows of x and, behind them, kCols rows of W_enc, in chunks
/// of 8 elements (16 bytes). The chunks of a row change places with its number, so that the eight
/// rows that one matrix of ldmatrix reads lie in different banks.
struct TensorTile {
  static constexpr std::uint32_t kCols = 256, kDepth = 64, kStages = 3;
  static constexpr std::uint32_t kChunk = 8;  // elements
  static constexpr std::uint32_t kRowChunks = kDepth / kChunk;
  static constexpr std::uint32_t kStageRows = kEncodeRows + kCols;
  static constexpr std::uint32_t kStageChunks = kStageRows * kRowChunks;
  static constexpr std::uint32_t kCopies = kStageChunks / kEncodeThreads;  // chunks of a thread
  static constexpr std::uint32_t kSteps = kDepth / 16;                     // products in a stage
  static constexpr std::uint32_t kRowTiles = 4, kColTiles = 8;  // products side by side, of a warp
  static constexpr std::uint32_t kThreadRows = 2 * kRowTiles, kThreadCols = 2 * kColTiles;

  /// The place of a chunk in its stage.
  THRESHER_DEVICE static std::uint32_t place(std::uint32_t row, std::uint32_t chunk) {
    return row * kRowChunks + (chunk ^ (row % kRowChunks));
  }
  /// What a thread copies: eight neighbours take a whole row.
  THRESHER_DEVICE static std::uint32_t copy_row(std::uint32_t thread, std::uint32_t i) {
    return (i * kEncodeThreads + thread) / kRowChunks;
  }
  THRESHER_DEVICE static std::uint32_t copy_chunk(std::uint32_t thread) {
    return thread % kRowChunks;
  }

  THRESHER_DEVICE static std::uint32_t warp_row(std::uint32_t thread) { return thread / 128 * 64; }
  THRESHER_DEVICE static std::uint32_t warp_col(std::uint32_t thread) {
    return thread / 32 % 4 * 64;
  }
  /// The chunk whose address a thread gives to ldmatrix.x4: for 16 rows of x by 16 elements the
  /// matrices (rows 0-7, chunk 0), (8-15, 0), (0-7, 1), (8-15, 1), which are the four registers of
  /// the first operand.
  THRESHER_DEVICE static std::uint32_t x_place(std::uint32_t thread, std::uint32_t row_tile,
                                               std::uint32_t step) {
    const std::uint32_t lane = thread % 32;
    return place(warp_row(thread) + 16 * row_tile + lane % 16, 2 * step + lane / 16);
  }
  /// For 16 latents: (latents 0-7, chunk 0), (0-7, 1), (8-15, 0), (8-15, 1), the two registers of
  /// the second operand of two products.
  THRESHER_DEVICE static std::uint32_t W_place(std::uint32_t thread, std::uint32_t pair,
                                               std::uint32_t step) {
    const std::uint32_t lane = thread % 32;
    const std::uint32_t latent = warp_col(thread) + 16 * pair + lane / 16 * 8 + lane % 8;
    return place(kEncodeRows + latent, 2 * step + lane / 8 % 2);
  }

  /// The sums of a thread: register 2 * (i % 2) + j % 2 of product (i / 2, j / 2).
  THRESHER_DEVICE static std::uint32_t row(std::uint32_t thread, std::uint32_t i) {
    return warp_row(thread) + i / 2 * 16 + thread % 32 / 4 + i % 2 * 8;
  }
  THRESHER_DEVICE static std::uint32_t col(std::uint32_t thread, std::uint32_t j) {
    return warp_col(thread) + j / 2 * 8 + thread % 4 * 2 + j % 2;
  }
};

/// The tile of float32 operands: 8 x 8 sums a thread, in 2 x 2 groups of 4 x 4, so that a warp
/// reads shared memory without bank conflicts. A stage holds kDepth elements, each as kEncodeRows
/// values of x and kCols of W_enc, every one of these columns kPitch apart.
struct FusedTile {
  static constexpr std::uint32_t kCols = 128, kDepth = 8;
  static constexpr std::uint32_t kQuads = kDepth / 4;  // groups of 4 elements of a row
  static constexpr std::uint32_t kPitch = kEncodeRows + kCols + 4;
  static constexpr std::uint32_t kStageFloats = kDepth * kPitch;
  static constexpr std::uint32_t kCopies =
      (kEncodeRows + kCols) * kQuads / kEncodeThreads;  // groups of a thread
  static constexpr std::uint32_t kThreadRows = 8, kThreadCols = 8;

  /// Rows of x come first, then those of W_enc.
  THRESHER_DEVICE static std::uint32_t copy_row(std::uint32_t thread, std::uint32_t i) {
    return (i * kEncodeThreads + thread) / kQuads;
  }
  THRESHER_DEVICE static std::uint32_t copy_quad(std::uint32_t thread) { return thread % kQuads; }
  THRESHER_DEVICE static std::uint32_t place(std::uint32_t row, std::uint32_t element) {
    return element * kPitch + row;
  }

  THRESHER_DEVICE static std::uint32_t row(std::uint32_t thread, std::uint32_t i) {
    return i / 4 * 64 + thread / 16 * 4 + i % 4;
  }
  THRESHER_DEVICE static std::uint32_t col(std::uint32_t thread, std::uint32_t j) {
    return j / 4 * 64 + thread % 16 * 4 + j % 4;
  }
};

static_assert(2 * TensorTile::kCols <= kSpareEntries && 2 * FusedTile::kCols <= kSpareEntries,
              "a list has room for two tiles after a cut");

}  // namespace thresher::kernels::detail
