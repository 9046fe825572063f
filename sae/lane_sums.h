#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "kernels/tree_sum.h"

namespace thresher::sae {

/// Sum over the rows of [rows, cols], in float64 and in a fixed order (kernels/column_sums.h): the
/// bits depend on nothing but the values. float32 and float64 tensors, contiguous.
std::vector<double> column_sums(const at::Tensor& values);

/// Sum of squares of all elements, in float64 and in a fixed order (kernels/decoder_norm.h).
double sum_of_squares(const at::Tensor& values);

/// Adds equally long vectors, one a lane, along the binary tree over lanes. The number of lanes is
/// a power of two. Ranks that own a subtree each complete it with Communicator::all_reduce_sum.
std::vector<double> lane_tree_sum(std::vector<std::vector<double>> lanes);

/// The memory of a float32 tensor, which it fills without gaps.
std::span<const float> values_of(const at::Tensor& tensor);
std::vector<float> narrowed(const std::vector<double>& values);
/// Copies the finished sum over lanes into the memory of a gradient of that size.
void take_sum(const kernels::LaneTree& tree, const at::Tensor& gradient);

/// The figure of that name: the batch's squared error against its squared distance from its own
/// mean. `column_sums` are those of the inputs.
double batch_fvu(double error_squares, double input_squares, std::span<const double> column_sums,
                 double n_tokens);

}  // namespace thresher::sae
