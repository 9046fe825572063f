#include <algorithm>
#include <vector>

#include "kernels/detail/backends.h"
#include "kernels/detail/lanes.h"
#include "kernels/parallel.h"

namespace thresher::kernels::detail {
namespace {

// About this many multiply-adds are worth a thread.
constexpr std::int64_t kGrainFlops = 1 << 15;

/// Multiply-adds of the rows before `row`, for d = 1, and something for a row without pairs.
std::int64_t cost_of_rows(const std::int64_t* row_offsets, std::int64_t row) {
  return row_offsets[row] - row_offsets[0] + row;
}

std::int64_t grain_rows(std::int64_t flops_per_row) {
  return std::max<std::int64_t>(1, kGrainFlops / std::max<std::int64_t>(1, flops_per_row));
}

THRESHER_HOT void add_scaled(float scale, const float* row, std::int64_t d, float* out) {
  for (std::int64_t c = 0; c < d; ++c) out[c] += scale * row[c];
}

THRESHER_HOT void add_rows(const float* row, std::int64_t d, float* out) {
  for (std::int64_t c = 0; c < d; ++c) out[c] += row[c];
}

THRESHER_HOT void dots(std::int64_t k, std::int64_t d, const std::int32_t* indices,
                       const float* grad, const float* W_dec, float* out) {
  for (std::int64_t j = 0; j < k; ++j) out[j] = dot_float(grad, W_dec + indices[j] * d, d);
}

/// Sums of one latent along the tree over lanes. A lane without pairs would add +0 to a sum that
/// started at +0 and so is never -0: leaving it out changes no bit.
class LatentSum {
 public:
  LatentSum(std::int64_t d, std::int64_t n_lanes, const LatentRows* lanes) : d_(d), lanes_(lanes) {
    std::int64_t levels = 0;
    while ((std::int64_t{1} << levels) < n_lanes) ++levels;
    scratch_.resize(static_cast<std::size_t>(levels * d));
  }

  void run(std::int64_t latent, std::int64_t n_lanes, float* out) {
    if (!subtree(latent, 0, n_lanes, out, scratch_.data())) std::fill_n(out, d_, 0.0f);
  }

 private:
  /// False, with `out` untouched, if no lane of the subtree has a pair of this latent.
  bool subtree(std::int64_t latent, std::int64_t first, std::int64_t count, float* out,
               float* scratch) {
    if (count == 1) return lane(latent, lanes_[first], out);
    const std::int64_t half = count / 2;
    if (!subtree(latent, first, half, out, scratch)) {
      return subtree(latent, first + half, half, out, scratch);
    }
    if (subtree(latent, first + half, half, scratch, scratch + d_)) add_rows(scratch, d_, out);
    return true;
  }

  bool lane(std::int64_t latent, const LatentRows& pairs, float* out) const {
    const std::int64_t begin = pairs.offsets[latent], end = pairs.offsets[latent + 1];
    if (begin == end) return false;
    std::fill_n(out, d_, 0.0f);
    for (std::int64_t p = begin; p < end; ++p) {
      add_scaled(pairs.coefficients[pairs.pair_slots[p]], pairs.rows + pairs.pair_rows[p] * d_, d_,
                 out);
    }
    return true;
  }

  std::int64_t d_;
  const LatentRows* lanes_;
  std::vector<float> scratch_;
};

float lane_scalar(std::int64_t latent, const LatentRows& pairs) {
  float sum = 0.0f;
  for (std::int64_t p = pairs.offsets[latent]; p < pairs.offsets[latent + 1]; ++p) {
    sum += pairs.coefficients[pairs.pair_slots[p]];
  }
  return sum;
}

float scalar_subtree(std::int64_t latent, std::int64_t count, const LatentRows* lanes) {
  if (count == 1) return lane_scalar(latent, *lanes);
  const float left = scalar_subtree(latent, count / 2, lanes);
  return left + scalar_subtree(latent, count / 2, lanes + count / 2);
}

/// Pairs of the latents before `latent`, plus the latents themselves: what the work is proportional
/// to.
std::int64_t cost_before(std::int64_t latent, std::int64_t n_lanes, const LatentRows* lanes) {
  std::int64_t cost = latent;
  for (std::int64_t lane = 0; lane < n_lanes; ++lane) cost += lanes[lane].offsets[latent];
  return cost;
}

}  // namespace

void sparse_decode_cpu(std::int64_t rows, std::int64_t d, const std::int64_t* row_offsets,
                       const std::int32_t* indices, const float* values, const float* W_dec,
                       const float* bias, float* recon) {
  const auto cost = [&](std::int64_t row) { return cost_of_rows(row_offsets, row); };
  parallel_for_cost(rows, grain_rows(d), cost, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      float* out = recon + r * d;
      if (bias != nullptr) {
        std::copy_n(bias, d, out);
      } else {
        std::fill_n(out, d, 0.0f);
      }
      for (std::int64_t slot = row_offsets[r]; slot < row_offsets[r + 1]; ++slot) {
        if (values[slot] != 0.0f) add_scaled(values[slot], W_dec + indices[slot] * d, d, out);
      }
    }
  });
}

void sparse_decode_grad_values_cpu(std::int64_t rows, std::int64_t d,
                                   const std::int64_t* row_offsets, const std::int32_t* indices,
                                   const float* grad_recon, const float* W_dec,
                                   float* grad_values) {
  const auto cost = [&](std::int64_t row) { return cost_of_rows(row_offsets, row); };
  parallel_for_cost(rows, grain_rows(d), cost, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t first = row_offsets[r];
      dots(row_offsets[r + 1] - first, d, indices + first, grad_recon + r * d, W_dec,
           grad_values + first);
    }
  });
}

void accumulate_latent_rows_cpu(std::int64_t n_latents, std::int64_t d, std::int64_t n_lanes,
                                const LatentRows* lanes, float* out) {
  parallel_for_cost(
      n_latents, grain_rows(d),
      [&](std::int64_t latent) { return cost_before(latent, n_lanes, lanes); },
      [&](std::int64_t begin, std::int64_t end) {
        LatentSum sum(d, n_lanes, lanes);
        for (std::int64_t latent = begin; latent < end; ++latent) {
          sum.run(latent, n_lanes, out + latent * d);
        }
      });
}

void accumulate_latent_scalars_cpu(std::int64_t n_latents, std::int64_t n_lanes,
                                   const LatentRows* lanes, float* out) {
  for (std::int64_t latent = 0; latent < n_latents; ++latent) {
    out[latent] = scalar_subtree(latent, n_lanes, lanes);
  }
}

}  // namespace thresher::kernels::detail
