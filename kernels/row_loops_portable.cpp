#include "core/error.h"
#include "kernels/detail/row_loops_body.h"

namespace thresher::kernels::detail {
namespace {

struct Portable {
  using Vector = float __attribute__((vector_size(16)));
  using Doubles = double __attribute__((vector_size(16)));
  using Half = float __attribute__((vector_size(8)));
  static constexpr int kSumVectors = 8, kDots = 2;
};

}  // namespace

const RowLoops kRowLoopsPortable = loops_of<Portable>();

const RowLoops& row_loops(CpuIsa isa) {
  THRESHER_CHECK(supports(isa), "an instruction set of this processor");
  switch (isa) {
    case CpuIsa::kAvx512:
      return kRowLoopsAvx512;
    case CpuIsa::kAvx2:
      return kRowLoopsAvx2;
    case CpuIsa::kPortable:
      break;
  }
  return kRowLoopsPortable;
}

}  // namespace thresher::kernels::detail
