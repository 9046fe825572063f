#include "kernels/detail/row_loops_body.h"

#if defined(__AVX2__)
namespace thresher::kernels::detail {
namespace {

struct Avx2 {
  using Vector = float __attribute__((vector_size(32)));
  using Doubles = double __attribute__((vector_size(32)));
  using Half = float __attribute__((vector_size(16)));
  static constexpr int kSumVectors = 8, kDots = 4;
};

}  // namespace

const RowLoops kRowLoopsAvx2 = loops_of<Avx2>();

}  // namespace thresher::kernels::detail
#else
namespace thresher::kernels::detail {
const RowLoops kRowLoopsAvx2{};
}  // namespace thresher::kernels::detail
#endif
