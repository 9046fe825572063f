#include "kernels/detail/encode_tile_body.h"

#if defined(__AVX512F__)
#include <immintrin.h>

namespace thresher::kernels::detail {
namespace {

struct Avx512 {
  using Vector = __m512;
  static Vector multiply_add(Vector a, Vector b, Vector sum) { return _mm512_fmadd_ps(a, b, sum); }
};

}  // namespace

const EncodeTile kEncodeTileAvx512{14, 32, run_tile<Avx512, 14, 2>};

}  // namespace thresher::kernels::detail
#else
namespace thresher::kernels::detail {
const EncodeTile kEncodeTileAvx512{0, 0, nullptr};
}  // namespace thresher::kernels::detail
#endif
