#pragma once

#include <cstdint>

#include "kernels/topk.h"

namespace thresher::kernels {

// A bfloat16 is held as std::uint16_t, the upper half of the float32 with its value.

/// centred[r, c] = x[r, c] - centre[c] in float32, and in `bfloat16` the same rounded to nearest,
/// ties to even. Arrays [rows, cols], all on exec.device. `centre` [cols] may be null (zero), and
/// one of the results where it is not wanted. `centred` may be `x` itself.
void centre_rows(const Exec& exec, std::int64_t rows, std::int64_t cols, const float* x,
                 const float* centre, float* centred, std::uint16_t* bfloat16);

}  // namespace thresher::kernels
