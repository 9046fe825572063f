#include "core/error.h"
#include "kernels/detail/encode_tile_body.h"

namespace thresher::kernels::detail {
namespace {

struct Portable {
  using Vector = float __attribute__((vector_size(16)));
  static Vector multiply_add(Vector a, Vector b, Vector sum) { return a * b + sum; }
};

}  // namespace

const EncodeTile kEncodeTilePortable{4, 8, run_tile<Portable, 4, 2>};

const EncodeTile& encode_tile(CpuIsa isa) {
  THRESHER_CHECK(supports(isa), "an instruction set of this processor");
  switch (isa) {
    case CpuIsa::kAvx512:
      return kEncodeTileAvx512;
    case CpuIsa::kAvx2:
      return kEncodeTileAvx2;
    case CpuIsa::kPortable:
      break;
  }
  return kEncodeTilePortable;
}

}  // namespace thresher::kernels::detail
