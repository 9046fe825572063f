#include "core/error.h"
#include "kernels/detail/screen_tile_body.h"

namespace thresher::kernels::detail {
namespace {

template <int kRows, int kCols>
constexpr ScreenTile kBytes{kRows,       kCols,      true, run_bytes<kRows, kCols>,
                            find<kCols>, pack_bytes, dots};

constexpr ScreenTile kFloats{4,       8,           false, run_floats<kEncodeTilePortable, 4, 8>,
                             find<8>, pack_floats, dots};

}  // namespace

const ScreenTile& float_screen_tile(CpuIsa isa) {
  THRESHER_CHECK(supports(isa), "an instruction set of this processor");
  switch (isa) {
    case CpuIsa::kAvx512:
      return kFloatScreenAvx512;
    case CpuIsa::kAvx2:
      return kFloatScreenAvx2;
    case CpuIsa::kPortable:
      break;
  }
  return kFloats;
}

const ScreenTile* byte_screen_tile(CpuIsa isa, bool slow_too) {
  if (isa == CpuIsa::kAvx512 && has_byte_products()) return &kByteScreenVnni;
  return slow_too ? &kBytes<4, 8> : nullptr;
}

}  // namespace thresher::kernels::detail
