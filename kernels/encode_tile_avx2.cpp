#include "kernels/detail/encode_tile_body.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

namespace thresher::kernels::detail {
namespace {

struct Avx2 {
  using Vector = __m256;
  static Vector multiply_add(Vector a, Vector b, Vector sum) { return _mm256_fmadd_ps(a, b, sum); }
};

}  // namespace

const EncodeTile kEncodeTileAvx2{6, 16, run_tile<Avx2, 6, 2>};

}  // namespace thresher::kernels::detail
#else
namespace thresher::kernels::detail {
const EncodeTile kEncodeTileAvx2{0, 0, nullptr};
}  // namespace thresher::kernels::detail
#endif
