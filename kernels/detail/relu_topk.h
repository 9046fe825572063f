#pragma once

#include <cstdint>

namespace thresher::kernels::detail {

/// The activations of TopK in place: the k largest of `row` stay where they are positive,
/// everything else becomes +0. Of equal values the earlier one is the larger; NaN counts as
/// nothing. k >= 1; with k >= count this is ReLU.
void relu_topk(std::int64_t count, std::int64_t k, float* row);

}  // namespace thresher::kernels::detail
