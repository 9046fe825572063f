#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace thresher::sae {

/// Sum over the rows of [rows, cols], in float64 and in a fixed order (kernels/column_sums.h): the
/// bits depend on nothing but the values. float32 and float64 tensors, contiguous.
std::vector<double> column_sums(const at::Tensor& values);

/// Sum of squares of all elements, in float64 and in a fixed order (kernels/decoder_norm.h).
double sum_of_squares(const at::Tensor& values);

/// Adds equally long vectors, one a lane, along the binary tree over lanes. The number of lanes is
/// a power of two. Ranks that own a subtree each complete it with Communicator::all_reduce_sum.
std::vector<double> lane_tree_sum(std::vector<std::vector<double>> lanes);

}  // namespace thresher::sae
