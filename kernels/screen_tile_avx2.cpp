#include "kernels/detail/screen_tile_body.h"

namespace thresher::kernels::detail {

#if defined(__AVX2__) && defined(__FMA__)
const ScreenTile kFloatScreenAvx2{6,        16,          false, run_floats<kEncodeTileAvx2, 6, 16>,
                                  find<16>, pack_floats, dots};
#else
const ScreenTile kFloatScreenAvx2{};
#endif

}  // namespace thresher::kernels::detail
