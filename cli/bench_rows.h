#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>

namespace thresher::cli {

/// Activations [n_rows, d_in] float32 that look like a residual stream to an SAE: each row is the
/// sum of 16 of 8 d_in unit directions with amplitudes 0.2 + Exp(1), a direction of rank r chosen
/// with probability ~ r^-0.7, plus one mean for all rows (0.1 a dimension) and noise (0.05); scaled
/// so that the mean norm is sqrt(d_in). The same numbers on every machine and for every n_rows,
/// but for the scale.
at::Tensor synthetic_rows(std::int64_t n_rows, std::int64_t d_in);

/// The first n_rows of a float32 [rows, d_in] .npy file. ConfigError when it is of another width or
/// type, or shorter.
at::Tensor read_rows(const std::filesystem::path& path, std::int64_t n_rows, std::int64_t d_in);

}  // namespace thresher::cli
