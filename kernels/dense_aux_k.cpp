#include "kernels/dense_aux_k.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "core/error.h"
#include "kernels/detail/lanes.h"
#include "kernels/detail/relu_topk.h"
#include "kernels/detail/row_loops.h"
#include "kernels/detail/tile_product.h"
#include "kernels/parallel.h"
#include "kernels/tree_sum.h"

namespace thresher::kernels {
namespace {

using detail::copy_row;
using detail::EncodeTile;
using detail::grow;
using detail::pack_element;
using detail::PackedSide;
using detail::tiles_of;

// Row tiles that a thread takes from the inputs to the gradients of their activations at a time.
constexpr std::int64_t kChunkTiles = 16;

/// Where a lane's sum goes on the way along the tree: levels [to, to + merges) are added to it,
/// the top one first, and the result is level `to`. Level 0 is the gradient.
struct TreePlace {
  int to, merges;
};

TreePlace place_of(std::int64_t lane) {
  const int merges = std::countr_one(static_cast<std::uint64_t>(lane));
  return {std::popcount(static_cast<std::uint64_t>(lane)) - merges, merges};
}

THRESHER_HOT void subtract(std::int64_t count, const float* from, float* values) {
  for (std::int64_t i = 0; i < count; ++i) values[i] = from[i] - values[i];
}

THRESHER_HOT void scale(std::int64_t count, float factor, const float* in, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = factor * in[i];
}

THRESHER_HOT void add_scaled(std::int64_t count, float factor, const float* in, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] += factor * in[i];
}

THRESHER_HOT void add(std::int64_t count, const float* in, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = in[i] + out[i];
}

THRESHER_HOT void keep_where_positive(std::int64_t count, const float* acts, const float* in,
                                      float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = acts[i] > 0 ? in[i] : 0.0f;
}

/// A thread's rows between the inputs and the gradients of their activations.
struct Chunk {
  std::vector<float> left;      // packed rows
  std::vector<float> acts, q;   // [rows, n_dead]
  std::vector<float> residual;  // [rows, d]
};

/// A row of a group of lanes.
struct Row {
  const float* input;
  const float* error;
  std::int64_t lane_start, lane_rows;  // rows of the group before the lane, and in it
};

}  // namespace

struct DenseAuxK::Workspace {
  Workspace(CpuIsa isa, std::int64_t bytes)
      : tile(detail::encode_tile(isa)), loops(detail::row_loops(isa)), group_bytes(bytes) {}

  void take_weights();
  void take_rows(std::int64_t first_lane, std::int64_t last_lane);
  std::int64_t lanes_at_once(std::int64_t first_lane) const;
  /// Row tiles [begin, end) of the group, up to what the gradients of the weights need of them.
  void activate(std::int64_t begin, std::int64_t end, Chunk& chunk);
  void pack_left(std::int64_t first_row, std::int64_t rows, std::int64_t depth, const float* values,
                 Chunk& chunk) const;
  void keep_rows(std::int64_t first_row, std::int64_t rows, const Chunk& chunk);
  /// Latent tiles [begin, end), from the rows of the group.
  void accumulate(std::int64_t first_lane, std::int64_t last_lane, std::int64_t begin,
                  std::int64_t end);
  void finish_tile(const LatentPairs& lane, TreePlace place, std::int64_t first_latent,
                   std::int64_t first_col, bool is_decoder, const float* z);
  void finish_bias(const LatentPairs& lane, TreePlace place, std::int64_t first_latent,
                   const float* q);
  float* level(int height, bool is_decoder, std::int64_t latent);

  std::int64_t n_dead() const { return static_cast<std::int64_t>(problem.dead.size()); }
  std::int64_t padded_dead() const { return tiles_of(n_dead(), tile.rows) * tile.rows; }
  std::int64_t padded_d() const { return tiles_of(problem.d, tile.cols) * tile.cols; }

  const EncodeTile& tile;
  const detail::RowLoops& loops;
  std::int64_t group_bytes;
  AuxKProblem problem;
  std::span<const LatentPairs> lanes;
  float *W_dec = nullptr, *W_enc = nullptr, *b_enc = nullptr;  // gradients

  PackedSide encoder, decoder_rows, decoder_columns;
  std::vector<float> bias;
  std::vector<Row> rows;
  // By lane: its latents or columns in tiles, its rows the depth.
  std::vector<float> acts, q, residuals, inputs;
  std::vector<double> squares;                                          // by row of the group
  std::vector<std::vector<float>> dec_levels, enc_levels, bias_levels;  // above level 0
  std::vector<Chunk> chunks;
  std::atomic<std::size_t> chunks_taken = 0;
};

void DenseAuxK::Workspace::take_weights() {
  detail::pack_rows(problem.dead, problem.d, tile.cols, problem.W_enc, encoder);
  detail::pack_rows(problem.dead, problem.d, tile.cols, problem.W_dec, decoder_rows);
  detail::pack_columns(problem.dead, problem.d, tile.cols, problem.W_dec, decoder_columns);
  bias.assign(static_cast<std::size_t>(encoder.tiles * tile.cols), 0.0f);
  for (std::size_t i = 0; i < problem.dead.size(); ++i) bias[i] = problem.b_enc[problem.dead[i]];
  // Two lanes meet in the gradient itself; every doubling of the lanes needs a level more.
  const auto levels =
      static_cast<std::size_t>(std::max(0, static_cast<int>(std::bit_width(lanes.size())) - 2));
  for (auto* of_matrix : {&dec_levels, &enc_levels}) {
    of_matrix->resize(std::max(levels, of_matrix->size()));
    for (auto& buffer : *of_matrix) grow(buffer, n_dead() * problem.d);
  }
  bias_levels.resize(std::max(levels, bias_levels.size()));
  for (auto& buffer : bias_levels) grow(buffer, n_dead());
  chunks.resize(std::max(chunks.size(), static_cast<std::size_t>(num_threads())));
}

std::int64_t DenseAuxK::Workspace::lanes_at_once(std::int64_t first_lane) const {
  const std::int64_t row_bytes =
      2 * (padded_dead() + padded_d()) * static_cast<std::int64_t>(sizeof(float));
  std::int64_t bytes = 0, count = 0;
  for (std::size_t l = static_cast<std::size_t>(first_lane); l < lanes.size(); ++l) {
    bytes += lanes[l].n_inputs * row_bytes;
    if (count > 0 && bytes > group_bytes) break;
    ++count;
  }
  return count;
}

void DenseAuxK::Workspace::take_rows(std::int64_t first_lane, std::int64_t last_lane) {
  rows.clear();
  for (std::int64_t l = first_lane; l < last_lane; ++l) {
    const LatentPairs& lane = lanes[static_cast<std::size_t>(l)];
    const auto start = static_cast<std::int64_t>(rows.size());
    for (std::int64_t r = 0; r < lane.n_inputs; ++r) {
      rows.push_back(
          {lane.inputs + r * problem.d, lane.residuals + r * problem.d, start, lane.n_inputs});
    }
  }
  const auto count = static_cast<std::int64_t>(rows.size());
  squares.resize(rows.size());
  for (auto* buffer : {&acts, &q}) grow(*buffer, count * padded_dead());
  for (auto* buffer : {&residuals, &inputs}) grow(*buffer, count * padded_d());
}

void DenseAuxK::Workspace::pack_left(std::int64_t first_row, std::int64_t n_rows,
                                     std::int64_t depth, const float* values, Chunk& chunk) const {
  const float* in[detail::kMaxTileRows];
  grow(chunk.left, kChunkTiles * tile.rows * depth);
  for (std::int64_t first = 0; first < n_rows; first += tile.rows) {
    const std::int64_t here = std::min<std::int64_t>(tile.rows, n_rows - first);
    for (std::int64_t r = 0; r < here; ++r) {
      in[r] = values == nullptr ? rows[static_cast<std::size_t>(first_row + first + r)].input
                                : values + (first + r) * depth;
    }
    detail::pack_vectors(here, depth, tile.rows, in, chunk.left.data() + first * depth);
  }
}

void DenseAuxK::Workspace::keep_rows(std::int64_t first_row, std::int64_t n_rows,
                                     const Chunk& chunk) {
  const std::int64_t d = problem.d;
  for (std::int64_t r = 0; r < n_rows; ++r) {
    const Row& row = rows[static_cast<std::size_t>(first_row + r)];
    const std::int64_t in_lane = first_row + r - row.lane_start;
    const float* residual = chunk.residual.data() + r * d;
    squares[static_cast<std::size_t>(first_row + r)] = loops.row_dots(residual, residual, d).aa;
    float* lane_acts = acts.data() + row.lane_start * padded_dead();
    float* lane_q = q.data() + row.lane_start * padded_dead();
    pack_element(n_dead(), in_lane, row.lane_rows, tile.rows, chunk.acts.data() + r * n_dead(),
                 lane_acts);
    pack_element(n_dead(), in_lane, row.lane_rows, tile.rows, chunk.q.data() + r * n_dead(),
                 lane_q);
    pack_element(d, in_lane, row.lane_rows, tile.cols, residual,
                 residuals.data() + row.lane_start * padded_d());
    pack_element(d, in_lane, row.lane_rows, tile.cols, row.input,
                 inputs.data() + row.lane_start * padded_d());
  }
}

void DenseAuxK::Workspace::activate(std::int64_t begin, std::int64_t end, Chunk& chunk) {
  const std::int64_t d = problem.d;
  grow(chunk.acts, kChunkTiles * tile.rows * n_dead());
  grow(chunk.q, kChunkTiles * tile.rows * n_dead());
  grow(chunk.residual, kChunkTiles * tile.rows * d);
  for (std::int64_t first = begin; first < end; first += kChunkTiles) {
    const std::int64_t n_tiles = std::min(kChunkTiles, end - first);
    const std::int64_t first_row = first * tile.rows;
    const std::int64_t n_rows =
        std::min(n_tiles * tile.rows, static_cast<std::int64_t>(rows.size()) - first_row);
    /// out [rows, cols] <- a tile of the chunk's rows
    const auto store = [&](std::int64_t cols, float* out, const auto& take) {
      return [&, cols, out, take](std::int64_t l, std::int64_t t, const float* z) {
        const std::int64_t here = std::min<std::int64_t>(tile.rows, n_rows - l * tile.rows);
        const std::int64_t width = std::min<std::int64_t>(tile.cols, cols - t * tile.cols);
        for (std::int64_t r = 0; r < here; ++r) {
          const std::int64_t row = l * tile.rows + r;
          take(row, t * tile.cols, width, z + r * tile.cols, out + row * cols + t * tile.cols);
        }
      };
    };
    const auto copy = [](std::int64_t, std::int64_t, std::int64_t width, const float* z,
                         float* out) { copy_row(width, z, out); };

    pack_left(first_row, n_rows, d, nullptr, chunk);
    multiply_tiles(tile, d, n_tiles, chunk.left.data(), encoder.tiles, encoder.values.data(),
                   bias.data(), store(n_dead(), chunk.acts.data(), copy));
    for (std::int64_t r = 0; r < n_rows; ++r) {
      detail::relu_topk(n_dead(), problem.k, chunk.acts.data() + r * n_dead());
    }
    pack_left(first_row, n_rows, n_dead(), chunk.acts.data(), chunk);
    multiply_tiles(tile, n_dead(), n_tiles, chunk.left.data(), decoder_columns.tiles,
                   decoder_columns.values.data(), nullptr, store(d, chunk.residual.data(), copy));
    for (std::int64_t r = 0; r < n_rows; ++r) {
      subtract(d, rows[static_cast<std::size_t>(first_row + r)].error,
               chunk.residual.data() + r * d);
    }
    pack_left(first_row, n_rows, d, chunk.residual.data(), chunk);
    multiply_tiles(tile, d, n_tiles, chunk.left.data(), decoder_rows.tiles,
                   decoder_rows.values.data(), nullptr,
                   store(n_dead(), chunk.q.data(),
                         [&](std::int64_t row, std::int64_t col, std::int64_t width, const float* z,
                             float* out) {
                           keep_where_positive(width, chunk.acts.data() + row * n_dead() + col, z,
                                               out);
                         }));
    keep_rows(first_row, n_rows, chunk);
  }
}

float* DenseAuxK::Workspace::level(int height, bool is_decoder, std::int64_t latent) {
  const std::int64_t d = problem.d;
  if (height > 0) {
    auto& levels = is_decoder ? dec_levels : enc_levels;
    return levels[static_cast<std::size_t>(height - 1)].data() + latent * d;
  }
  return (is_decoder ? W_dec : W_enc) + problem.dead[static_cast<std::size_t>(latent)] * d;
}

void DenseAuxK::Workspace::finish_tile(const LatentPairs& lane, TreePlace place,
                                       std::int64_t first_latent, std::int64_t first_col,
                                       bool is_decoder, const float* z) {
  const std::int64_t d = problem.d;
  const std::int64_t width = std::min<std::int64_t>(tile.cols, d - first_col);
  const float* coefficients = is_decoder ? lane.values : lane.grad_values;
  const float* matrix = (is_decoder ? lane.residuals : lane.inputs) + first_col;
  const std::int64_t last = std::min(first_latent + tile.rows, n_dead());
  for (std::int64_t i = first_latent; i < last; ++i, z += tile.cols) {
    float sums[detail::kMaxTileCols];
    scale(width, problem.factor, z, sums);
    const std::int32_t latent = problem.dead[static_cast<std::size_t>(i)];
    const std::int64_t begin = lane.offsets[latent], end = lane.offsets[latent + 1];
    if (begin < end) {
      float main[detail::kMaxTileCols] = {};
      for (std::int64_t p = begin; p < end; ++p) {
        add_scaled(width, coefficients[lane.pair_slots[p]], matrix + lane.pair_rows[p] * d, main);
      }
      add(width, main, sums);
    }
    for (int m = place.merges; m-- > 0;) {
      add(width, level(place.to + m, is_decoder, i) + first_col, sums);
    }
    copy_row(width, sums, level(place.to, is_decoder, i) + first_col);
  }
}

void DenseAuxK::Workspace::finish_bias(const LatentPairs& lane, TreePlace place,
                                       std::int64_t first_latent, const float* lane_q) {
  float sums[detail::kMaxTileRows] = {};
  for (std::int64_t r = 0; r < lane.n_inputs; ++r) {
    for (int i = 0; i < tile.rows; ++i) sums[i] += lane_q[r * tile.rows + i];
  }
  const std::int64_t last = std::min(first_latent + tile.rows, n_dead());
  for (std::int64_t i = first_latent; i < last; ++i) {
    float sum = problem.factor * sums[i - first_latent];
    const std::int32_t latent = problem.dead[static_cast<std::size_t>(i)];
    float main = 0;
    for (std::int64_t p = lane.offsets[latent]; p < lane.offsets[latent + 1]; ++p) {
      main += lane.grad_values[lane.pair_slots[p]];
    }
    sum += main;
    const auto at = [&](int height) -> float& {
      return height > 0
                 ? bias_levels[static_cast<std::size_t>(height - 1)][static_cast<std::size_t>(i)]
                 : b_enc[latent];
    };
    for (int m = place.merges; m-- > 0;) sum = at(place.to + m) + sum;
    at(place.to) = sum;
  }
}

void DenseAuxK::Workspace::accumulate(std::int64_t first_lane, std::int64_t last_lane,
                                      std::int64_t begin, std::int64_t end) {
  std::int64_t start = 0;
  for (std::int64_t l = first_lane; l < last_lane; ++l) {
    const LatentPairs& lane = lanes[static_cast<std::size_t>(l)];
    const std::int64_t depth = lane.n_inputs;
    const TreePlace place = place_of(l);
    const auto left = [&](const std::vector<float>& of) {
      return of.data() + start * padded_dead() + begin * tile.rows * depth;
    };
    const auto product = [&](bool is_decoder, const std::vector<float>& of,
                             const std::vector<float>& right) {
      multiply_tiles(tile, depth, end - begin, left(of), padded_d() / tile.cols,
                     right.data() + start * padded_d(), nullptr,
                     [&](std::int64_t i, std::int64_t t, const float* z) {
                       finish_tile(lane, place, (begin + i) * tile.rows, t * tile.cols, is_decoder,
                                   z);
                     });
    };
    product(true, acts, residuals);
    product(false, q, inputs);
    for (std::int64_t i = begin; i < end; ++i) {
      finish_bias(lane, place, i * tile.rows, left(q) + (i - begin) * tile.rows * depth);
    }
    start += depth;
  }
}

DenseAuxK::DenseAuxK(CpuIsa isa, std::int64_t group_bytes)
    : workspace_(std::make_unique<Workspace>(isa, group_bytes)) {}
DenseAuxK::~DenseAuxK() = default;
DenseAuxK::DenseAuxK(DenseAuxK&&) noexcept = default;
DenseAuxK& DenseAuxK::operator=(DenseAuxK&&) noexcept = default;

std::vector<double> DenseAuxK::accumulate(const AuxKProblem& problem, std::int64_t n_lanes,
                                          const LatentPairs* lanes, float* W_dec, float* W_enc,
                                          float* b_enc) {
  THRESHER_CHECK(problem.k >= 1 && problem.d >= 1 && n_lanes >= 1 &&
                     std::has_single_bit(static_cast<std::uint64_t>(n_lanes)),
                 "dense_aux_k: k and d of at least 1, a power of two of lanes");
  Workspace& work = *workspace_;
  work.problem = problem;
  work.lanes = {lanes, static_cast<std::size_t>(n_lanes)};
  work.W_dec = W_dec;
  work.W_enc = W_enc;
  work.b_enc = b_enc;
  work.take_weights();
  std::vector<double> squares;
  for (std::int64_t first = 0, last = 0; first < n_lanes; first = last) {
    last = first + work.lanes_at_once(first);
    work.take_rows(first, last);
    const auto n_rows = static_cast<std::int64_t>(work.rows.size());
    work.chunks_taken = 0;
    detail::parallel_for(tiles_of(n_rows, work.tile.rows), 1,
                         [&](std::int64_t begin, std::int64_t end) {
                           work.activate(begin, end, work.chunks[work.chunks_taken++]);
                         });
    std::size_t row = 0;
    for (std::int64_t l = first; l < last; ++l) {
      const auto count = static_cast<std::size_t>(lanes[l].n_inputs);
      squares.push_back(tree_sum(std::span<const double>(work.squares).subspan(row, count)));
      row += count;
    }
    detail::parallel_for(
        work.padded_dead() / work.tile.rows, 1,
        [&](std::int64_t begin, std::int64_t end) { work.accumulate(first, last, begin, end); });
  }
  return squares;
}

}  // namespace thresher::kernels
