#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/detail/columns_device.h"
#include "kernels/detail/device_code.h"
#include "kernels/detail/sort_pairs_device.h"
#include "kernels/mixed_precision.h"

namespace thresher::kernels::detail {

/// The arguments of sparse_residuals.
struct ResidualTask {
  std::int64_t d;
  const std::int64_t* row_offsets;
  const std::int32_t* indices;
  const float* values;
  const std::uint16_t* W_dec;
  const float* bias;
  const float* x;
  float* residuals;
  std::uint16_t* rounded;
  float* dots;
};

/// Rows that are on their way at a time; they are added in their order.
constexpr int kRowsAhead = 4;

/// Columns [col, col + kWidth) of one row's residual.
template <int kWidth>
THRESHER_DEVICE void residual_columns(const ResidualTask& task, std::int64_t row,
                                      std::int64_t col) {
  Columns<float, kWidth> recon{};
  if (task.bias != nullptr) recon = load_columns<kWidth>(task.bias + col);
  const std::int64_t end = task.row_offsets[row + 1];
  for (std::int64_t slot = task.row_offsets[row]; slot < end; slot += kRowsAhead) {
    float values[kRowsAhead];
    Columns<std::uint16_t, kWidth> weights[kRowsAhead];
    THRESHER_UNROLL
    for (int b = 0; b < kRowsAhead; ++b) {
      values[b] = slot + b < end ? task.values[slot + b] : 0.0f;
      // A silent slot's latent means nothing: it reads row 0, and nothing is added.
      const std::int64_t latent = values[b] != 0.0f ? task.indices[slot + b] : 0;
      weights[b] = load_columns<kWidth>(task.W_dec + latent * task.d + col);
    }
    THRESHER_UNROLL
    for (int b = 0; b < kRowsAhead; ++b) {
      if (values[b] == 0.0f) continue;
      THRESHER_UNROLL
      for (int i = 0; i < kWidth; ++i) recon.at[i] += values[b] * widened(weights[b].at[i]);
    }
  }
  Columns<float, kWidth> residual = load_columns<kWidth>(task.x + row * task.d + col);
  Columns<std::uint16_t, kWidth> rounded;
  for (int i = 0; i < kWidth; ++i) {
    residual.at[i] -= recon.at[i];
    rounded.at[i] = to_bfloat16(residual.at[i]);
  }
  store_columns(task.residuals + row * task.d + col, residual);
  if (task.rounded != nullptr) store_columns(task.rounded + row * task.d + col, rounded);
}

/// One row: its residual, then its dot products, a warp a slot. `sums` has room for a number a
/// thread.
template <int kWidth, class Block>
THRESHER_DEVICE void mixed_residual_block(Block& block, const ResidualTask& task, std::int64_t row,
                                          float* sums) {
  const std::int64_t d = task.d;
  block.each([&](std::uint32_t thread) {
    for (std::int64_t c = thread * kWidth; c < d; c += block.threads() * kWidth) {
      residual_columns<kWidth>(task, row, c);
    }
  });
  const std::int64_t end = task.row_offsets[row + 1];
  block.each_warp([&](auto& warp, std::uint32_t index) {
    float* of_warp = sums + 32 * index;
    for (std::int64_t slot = task.row_offsets[row] + index; slot < end;
         slot += block.threads() / 32) {
      const bool is_silent = task.values[slot] == 0.0f;
      warp.each([&](std::uint32_t lane) {
        float sum = 0.0f;
        const std::uint16_t* W = task.W_dec + task.indices[slot] * d;
        for (std::int64_t c = is_silent ? d : lane * kWidth; c < d; c += 32 * kWidth) {
          const auto residual = load_columns<kWidth>(task.residuals + row * d + c);
          const auto weights = load_columns<kWidth>(W + c);
          for (int i = 0; i < kWidth; ++i) sum += residual.at[i] * widened(weights.at[i]);
        }
        of_warp[lane] = sum;
      });
      for (std::uint32_t half = 16; half >= 1; half /= 2) {
        warp.each([&](std::uint32_t lane) {
          if (lane < half) of_warp[lane] += of_warp[lane + half];
        });
      }
      warp.each([&](std::uint32_t lane) {
        if (lane == 0) task.dots[slot] = of_warp[0];
      });
    }
  });
}

// Sums by latent. A latent with more pairs than heavy_pairs(total) is heavy: kHeavyParts blocks sum
// equal parts of its pairs into a place of its own before the blocks of the latents run. Two heavy
// latents begin more than heavy_pairs apart, so begin / heavy_pairs numbers them, below
// kHeavyPlaces.

constexpr std::int64_t kHeavyPlaces = 512;
constexpr std::int64_t kHeavyParts = 8;
constexpr std::int64_t kLeastHeavy = 256;

THRESHER_DEVICE inline std::int64_t heavy_pairs(std::int64_t total) {
  const std::int64_t share = (total + kHeavyPlaces - 1) / kHeavyPlaces;
  return share > kLeastHeavy ? share : kLeastHeavy;
}

/// The pairs of one latent, or a part of them.
struct PairRange {
  std::int64_t begin, end;

  THRESHER_DEVICE PairRange part(std::int64_t index) const {
    const std::int64_t length = (end - begin + kHeavyParts - 1) / kHeavyParts;
    const std::int64_t first = begin + index * length, last = first + length;
    return {first < end ? first : end, last < end ? last : end};
  }
};

/// The pairs of the heavy latent of a place; empty if there is none.
THRESHER_DEVICE inline PairRange heavy_range(std::int64_t place, std::int64_t n_latents,
                                             const std::int64_t* offsets) {
  const std::int64_t least = heavy_pairs(offsets[n_latents]);
  const std::int64_t inside = (place + 1) * least;  // a heavy latent of this place has this pair
  if (inside >= offsets[n_latents]) return {0, 0};
  const std::int64_t latent = row_of_slot(offsets, n_latents, inside);
  const PairRange range{offsets[latent], offsets[latent + 1]};
  const bool is_heavy = range.end - range.begin > least && range.begin / least == place;
  return is_heavy ? range : PairRange{0, 0};
}

/// Both rows' sums of kWidth columns.
template <int kWidth>
struct GradientColumns {
  Columns<float, kWidth> W_dec, W_enc;
};

/// The sums over a range of pairs, in their order; 0 of what is not wanted (no values or no
/// grad_values). `Pairs` is MixedPairs or LatentPairs.
template <int kWidth, class Pairs>
THRESHER_DEVICE GradientColumns<kWidth> gradient_columns(const Pairs& pairs, PairRange range,
                                                         std::int64_t d, std::int64_t col) {
  using Row = Columns<std::remove_const_t<std::remove_pointer_t<decltype(Pairs::inputs)>>, kWidth>;
  GradientColumns<kWidth> sums{};
  const bool wants_decoder = pairs.values != nullptr, wants_encoder = pairs.grad_values != nullptr;
  for (std::int64_t p = range.begin; p < range.end; p += kRowsAhead) {
    float values[kRowsAhead] = {}, grad_values[kRowsAhead] = {};
    Row residuals[kRowsAhead] = {}, inputs[kRowsAhead] = {};
    THRESHER_UNROLL
    for (int b = 0; b < kRowsAhead; ++b) {
      const std::int64_t at = p + b < range.end ? p + b : p;  // past the end: read, but not added
      const std::int64_t row = pairs.pair_rows[at];
      const std::int32_t slot = pairs.pair_slots[at];
      if (wants_decoder) {
        values[b] = pairs.values[slot];
        residuals[b] = load_columns<kWidth>(pairs.residuals + row * d + col);
      }
      if (!wants_encoder) continue;
      const std::int64_t input = row < pairs.n_inputs ? row : row - pairs.n_inputs;
      grad_values[b] = pairs.grad_values[slot];
      inputs[b] = load_columns<kWidth>(pairs.inputs + input * d + col);
    }
    THRESHER_UNROLL
    for (int b = 0; b < kRowsAhead; ++b) {
      if (p + b >= range.end) continue;
      THRESHER_UNROLL
      for (int i = 0; i < kWidth; ++i) {
        if (wants_decoder) sums.W_dec.at[i] += values[b] * widened(residuals[b].at[i]);
        if (wants_encoder) sums.W_enc.at[i] += grad_values[b] * widened(inputs[b].at[i]);
      }
    }
  }
  return sums;
}

/// The sum of the factors alone.
template <class Pairs>
THRESHER_DEVICE float bias_sum(const Pairs& pairs, PairRange range) {
  float sum = 0.0f;
  if (pairs.grad_values == nullptr) return sum;
  for (std::int64_t p = range.begin; p < range.end; ++p) {
    sum += pairs.grad_values[pairs.pair_slots[p]];
  }
  return sum;
}

/// Room for the parts of heavy latents: [kHeavyPlaces, kHeavyParts] of two rows, and of one number.
struct HeavySums {
  float* rows;
  float* biases;

  static constexpr std::int64_t kCount = kHeavyPlaces * kHeavyParts;
  THRESHER_DEVICE float* W_dec(std::int64_t index, std::int64_t d) const {
    return rows + 2 * index * d;
  }
  THRESHER_DEVICE float* W_enc(std::int64_t index, std::int64_t d) const {
    return rows + (2 * index + 1) * d;
  }
};

/// One part of a heavy latent: index = place * kHeavyParts + part.
template <int kWidth, class Pairs>
THRESHER_DEVICE void heavy_part(std::uint32_t thread, std::uint32_t threads, std::int64_t index,
                                std::int64_t n_latents, std::int64_t d, const Pairs& pairs,
                                const HeavySums& heavy) {
  const PairRange all = heavy_range(index / kHeavyParts, n_latents, pairs.offsets);
  if (all.begin == all.end) return;
  const PairRange range = all.part(index % kHeavyParts);
  for (std::int64_t c = thread * kWidth; c < d; c += threads * kWidth) {
    const auto sums = gradient_columns<kWidth>(pairs, range, d, c);
    store_columns(heavy.W_dec(index, d) + c, sums.W_dec);
    store_columns(heavy.W_enc(index, d) + c, sums.W_enc);
  }
  if (thread == 0) heavy.biases[index] = bias_sum(pairs, range);
}

/// The parts of a heavy latent added in order, from part 0 on.
template <int kWidth>
THRESHER_DEVICE GradientColumns<kWidth> heavy_columns(const HeavySums& heavy, std::int64_t place,
                                                      std::int64_t d, std::int64_t col) {
  const std::int64_t first = place * kHeavyParts;
  GradientColumns<kWidth> sums{load_columns<kWidth>(heavy.W_dec(first, d) + col),
                               load_columns<kWidth>(heavy.W_enc(first, d) + col)};
  for (std::int64_t part = 1; part < kHeavyParts; ++part) {
    const auto W_dec = load_columns<kWidth>(heavy.W_dec(first + part, d) + col);
    const auto W_enc = load_columns<kWidth>(heavy.W_enc(first + part, d) + col);
    for (int i = 0; i < kWidth; ++i) {
      sums.W_dec.at[i] += W_dec.at[i];
      sums.W_enc.at[i] += W_enc.at[i];
    }
  }
  return sums;
}

/// One latent's gradients; what is not wanted may be null.
template <int kWidth, class Pairs>
THRESHER_DEVICE void latent_gradients(std::uint32_t thread, std::uint32_t threads,
                                      std::int64_t latent, std::int64_t n_latents, std::int64_t d,
                                      const Pairs& pairs, const HeavySums& heavy, float* W_dec,
                                      float* W_enc, float* b_enc) {
  const PairRange range{pairs.offsets[latent], pairs.offsets[latent + 1]};
  const std::int64_t least = heavy_pairs(pairs.offsets[n_latents]);
  const bool is_heavy = range.end - range.begin > least;
  const std::int64_t place = range.begin / least;
  for (std::int64_t c = thread * kWidth; c < d; c += threads * kWidth) {
    const auto sums = is_heavy ? heavy_columns<kWidth>(heavy, place, d, c)
                               : gradient_columns<kWidth>(pairs, range, d, c);
    if (W_dec != nullptr) store_columns(W_dec + latent * d + c, sums.W_dec);
    if (W_enc != nullptr) store_columns(W_enc + latent * d + c, sums.W_enc);
  }
  if (thread != 0 || b_enc == nullptr) return;
  float bias = is_heavy ? heavy.biases[place * kHeavyParts] : bias_sum(pairs, range);
  for (std::int64_t part = 1; is_heavy && part < kHeavyParts; ++part) {
    bias += heavy.biases[place * kHeavyParts + part];
  }
  b_enc[latent] = bias;
}

}  // namespace thresher::kernels::detail
