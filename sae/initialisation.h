#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "core/random.h"

namespace thresher::sae {

/// Fills W [rows, cols] float32 with random directions: every row has Euclidean norm `norm`.
/// Element (i, j) uses draw i * cols + j of the stream.
void fill_random_directions(at::Tensor& W, double norm, const RandomStream& stream);

/// Mean of the rows of `sample` [n, d], n >= 1, in float64.
std::vector<double> mean_row(const at::Tensor& sample);

/// The point with the smallest sum of distances to the rows of `sample` [n, d], n >= 1: Weiszfeld's
/// iteration from the mean, float64, rows in order, at most 100 rounds, until a round moves it by
/// less than 1e-7 of the rows' RMS distance from their mean. Distances are smoothed by 1e-6 of
/// that, so that hitting a row does no harm.
std::vector<double> geometric_median(const at::Tensor& sample);

/// b_dec at the start, by name: geometric_median, mean or zero. float32 [d].
at::Tensor initial_decoder_bias(const std::string& how, const at::Tensor& sample);

/// Mean over the rows of |x|^2, float64.
double mean_squared_norm(const at::Tensor& sample);

}  // namespace thresher::sae
