#pragma once

#include <span>
#include <vector>

#include "kernels/reference.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/draws.h"

namespace thresher::kernels {

/// Lanes with at most `k` pairs a row; about one pair in four is silent. In every other lane the
/// second half of the rows has the inputs of the first once more.
inline std::vector<Lane> random_lanes(Draws& draws, std::int64_t n_lanes, std::int64_t max_rows,
                                      std::int64_t k, std::int64_t n_latents, std::int64_t d,
                                      bool is_integer) {
  const auto numbers = [&](std::int64_t count) {
    return is_integer ? draws.integers(count) : draws.reals(count);
  };
  std::vector<Lane> lanes(static_cast<std::size_t>(n_lanes));
  for (Lane& lane : lanes) {
    lane.n_inputs = draws.integer(0, max_rows);
    const std::int64_t rows = lane.n_inputs * draws.integer(1, 2);
    lane.row_offsets = draws.row_offsets(rows, k);
    const std::int64_t n_slots = lane.row_offsets.back();
    lane.indices = draws.latents(n_slots, n_latents);
    lane.values = numbers(n_slots);
    for (float& value : lane.values) value = draws.integer(0, 3) == 0 ? 0.0f : value;
    lane.grad_values = numbers(n_slots);
    lane.residuals = numbers(rows * d);
    lane.inputs = numbers(lane.n_inputs * d);
  }
  return lanes;
}

/// What the lanes add up to, by the plain formula; exact for integers.
inline Gradients expected_gradients(std::int64_t n_latents, std::int64_t d,
                                    std::span<const Lane> lanes) {
  Gradients out{std::vector<float>(static_cast<std::size_t>(n_latents * d)), {}, {}};
  out.W_enc = out.W_dec;
  out.b_enc.resize(static_cast<std::size_t>(n_latents));
  const auto add = [&](const Lane& lane, const std::vector<float>& coefficients,
                       const std::vector<float>& rows, std::int64_t cols, std::vector<float>& to) {
    std::vector<float> part(static_cast<std::size_t>(n_latents * cols));
    reference::accumulate_latent_rows(
        rows_of(lane.row_offsets), n_latents, cols, lane.row_offsets.data(), lane.indices.data(),
        lane.values.data(), coefficients.data(), rows.data(), part.data());
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += part[i];
  };
  for (const Lane& lane : lanes) {
    std::vector<float> inputs = lane.inputs;
    inputs.insert(inputs.end(), lane.inputs.begin(), lane.inputs.end());
    add(lane, lane.values, lane.residuals, d, out.W_dec);
    add(lane, lane.grad_values, inputs, d, out.W_enc);
    add(lane, lane.grad_values, std::vector<float>(lane.row_offsets.size(), 1.0f), 1, out.b_enc);
  }
  return out;
}

}  // namespace thresher::kernels
