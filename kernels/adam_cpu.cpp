#include "kernels/detail/adam_element.h"
#include "kernels/detail/backends.h"
#include "kernels/detail/lanes.h"
#include "kernels/parallel.h"

namespace thresher::kernels::detail {
namespace {

THRESHER_HOT void adam_range(const AdamFactors factors, std::int64_t begin, std::int64_t end,
                             const float* __restrict gradient, float* __restrict weights,
                             float* __restrict m, float* __restrict v) {
  for (std::int64_t i = begin; i < end; ++i) {
    adam_element(factors, gradient[i], weights[i], m[i], v[i]);
  }
}

}  // namespace

void adam_cpu(const AdamStep& step, std::int64_t count, const float* gradient, float* weights,
              float* m, float* v) {
  const AdamFactors factors = adam_factors(step);
  parallel_for(count, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
    adam_range(factors, begin, end, gradient, weights, m, v);
  });
}

}  // namespace thresher::kernels::detail
