#include "kernels/detail/row_loops_body.h"

#if defined(__AVX512F__)
namespace thresher::kernels::detail {
namespace {

struct Avx512 {
  using Vector = float __attribute__((vector_size(64)));
  using Doubles = double __attribute__((vector_size(64)));
  using Half = float __attribute__((vector_size(32)));
  static constexpr int kSumVectors = 16, kDots = 8;
};

}  // namespace

const RowLoops kRowLoopsAvx512 = loops_of<Avx512>();

}  // namespace thresher::kernels::detail
#else
namespace thresher::kernels::detail {
const RowLoops kRowLoopsAvx512{};
}  // namespace thresher::kernels::detail
#endif
