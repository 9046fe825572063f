#pragma once

#include <cstdint>

#include "kernels/cpu_isa.h"

namespace thresher::kernels::detail {

constexpr int kMaxTileRows = 14;
constexpr int kMaxTileCols = 32;

/// A block of the encoder product that stays in registers: `rows` x `cols` pre-activations over the
/// whole of d, one chain of multiply-adds each in the order of d, then the bias. So a
/// pre-activation's bits depend on neither the tile it falls into nor on what else is computed.
struct EncodeTile {
  int rows;  // <= kMaxTileRows
  int cols;  // <= kMaxTileCols

  /// `x` [d][rows] and `W` [d][cols] packed; `bias` [cols]; z [rows][cols] gets the
  /// pre-activations.
  void (*run)(std::int64_t d, const float* x, const float* W, const float* bias, float* z);
};

/// InternalError if this processor lacks it.
const EncodeTile& encode_tile(CpuIsa isa);

/// One a file, so that each is compiled for its instruction set.
extern const EncodeTile kEncodeTilePortable, kEncodeTileAvx2, kEncodeTileAvx512;

}  // namespace thresher::kernels::detail
