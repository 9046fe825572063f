#include "kernels/detail/screen_tile_body.h"

#if defined(__AVX512F__)
#include "kernels/detail/screen_find_avx512.h"

namespace thresher::kernels::detail {

const ScreenTile kFloatScreenAvx512{
    kRows,           kCols,       false, run_floats<kEncodeTileAvx512, kRows, kCols>,
    find_with_masks, pack_floats, dots};

}  // namespace thresher::kernels::detail
#else
namespace thresher::kernels::detail {
const ScreenTile kFloatScreenAvx512{};
}  // namespace thresher::kernels::detail
#endif
