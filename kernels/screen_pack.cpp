#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/detail/encode_tile.h"
#include "kernels/detail/pack_vectors.h"
#include "kernels/detail/screen.h"
#include "kernels/parallel.h"

namespace thresher::kernels::detail {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows and latents that stand for all when dimensions are scaled.
constexpr std::int64_t kSampled = 1024;
constexpr float kLargestFactor = 0x1p20f;

// Beyond it a sum might overflow in float32, where there is no limit on what comes out.
constexpr float kLargestBias = 1e30f;
// More than all that underflows can come to.
constexpr float kTiny = 1e-25f;

/// The root mean square of every column over some of the rows.
std::vector<double> column_sizes(std::int64_t rows, std::int64_t d, const float* values) {
  const std::int64_t stride = std::max<std::int64_t>(1, rows / kSampled);
  std::vector<double> sums(static_cast<std::size_t>(d));
  for (std::int64_t r = 0; r < rows; r += stride) {
    for (std::int64_t i = 0; i < d; ++i) {
      const auto value = static_cast<double>(values[r * d + i]);
      sums[static_cast<std::size_t>(i)] += value * value;
    }
  }
  for (double& sum : sums) sum = std::sqrt(sum / static_cast<double>(tiles_of(rows, stride)));
  return sums;
}

}  // namespace

void Screen::choose_factors(const EncoderProduct& product) {
  // A dimension where rows are large costs all others their precision: it is divided out of the
  // rows and into the latents, half way.
  const std::vector<double> x = column_sizes(product.rows, d_, product.x);
  const std::vector<double> w = column_sizes(product.n_latents, d_, product.W_enc);
  row_factors_.resize(x.size());
  column_factors_.resize(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    auto factor = static_cast<float>(std::sqrt(w[i] / x[i]));
    if (!(factor >= 1 / kLargestFactor && factor <= kLargestFactor)) factor = 1;
    row_factors_[i] = factor;
    column_factors_[i] = 1 / factor;
  }
}

void Screen::pack_rows(const EncoderProduct& product, float row_bound) {
  const std::int64_t n_tiles = tiles_of(product.rows, tile_->rows);
  const std::int64_t padded = n_tiles * tile_->rows;
  rows_.resize(n_tiles * tile_floats(tile_->rows), padded);
  start_.assign(static_cast<std::size_t>(padded), 0);
  row_bounds_.assign(static_cast<std::size_t>(padded), row_bound);
  maxima_.assign(static_cast<std::size_t>(padded * n_maxima_), -kInfinity);
  parallel_for(n_tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    const float* in[kMaxTileRows];
    Packed packed[kMaxTileRows];
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t first = t * tile_->rows;
      const std::int64_t count = std::min<std::int64_t>(tile_->rows, product.rows - first);
      for (std::int64_t r = 0; r < count; ++r) in[r] = product.x + (first + r) * d_;
      tile_->pack(count, d_, tile_->rows, in, row_factors_.data(), 0,
                  rows_.packed.data() + t * tile_floats(tile_->rows), packed);
      for (std::int64_t r = 0; r < count; ++r) {
        const auto at = static_cast<std::size_t>(first + r);
        const Packed& row = packed[r];
        const bool is_known = std::isfinite(row.scale);
        rows_.scale[at] = is_known ? row.scale : 0;
        rows_.error[at] = is_known ? row.error + rounding_ * row.norm : kInfinity;
        rows_.norm[at] = row.norm + row.error;
        start_[at] = -kByteOffset * row.sum;
      }
    }
  });
}

void Screen::pack_columns(const EncoderProduct& product, const Chunk& chunk, const float* bounds) {
  const std::int64_t padded = chunk.tiles * tile_->cols;
  columns_.resize(chunk.tiles * tile_floats(tile_->cols), padded);
  bias_.assign(static_cast<std::size_t>(padded), -kInfinity);
  slack_.assign(static_cast<std::size_t>(padded), 0);
  tile_norm_.assign(static_cast<std::size_t>(chunk.tiles), 0);
  tile_slack_.assign(static_cast<std::size_t>(chunk.tiles), 0);
  column_bounds_.assign(static_cast<std::size_t>(padded), -kInfinity);
  if (bounds != nullptr) std::copy_n(bounds + chunk.first, chunk.count, column_bounds_.begin());
  parallel_for(chunk.tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    const float* in[kMaxTileCols];
    Packed packed[kMaxTileCols];
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t first = t * tile_->cols;
      const std::int64_t count = std::min<std::int64_t>(tile_->cols, chunk.count - first);
      for (std::int64_t c = 0; c < count; ++c) {
        in[c] = product.W_enc + (chunk.first + first + c) * d_;
      }
      tile_->pack(count, d_, tile_->cols, in, column_factors_.data(), kByteOffset,
                  columns_.packed.data() + t * tile_floats(tile_->cols), packed);
      float& tile_norm = tile_norm_[static_cast<std::size_t>(t)];
      float& tile_slack = tile_slack_[static_cast<std::size_t>(t)];
      for (std::int64_t c = 0; c < count; ++c) {
        const auto at = static_cast<std::size_t>(first + c);
        const Packed& column = packed[c];
        const float bias = product.b_enc[chunk.first + first + c];
        const bool is_known = std::isfinite(column.scale) && std::fabs(bias) <= kLargestBias;
        columns_.scale[at] = is_known ? column.scale : 0;
        columns_.error[at] = column.error;
        columns_.norm[at] = column.norm;
        bias_[at] = is_known ? bias : 0;
        slack_[at] = is_known ? rounding_ * std::fabs(bias) + kTiny : kInfinity;
        tile_norm = std::max(tile_norm, column.norm);
        tile_slack = std::max(tile_slack, slack_[at]);
      }
    }
  });
}

}  // namespace thresher::kernels::detail
