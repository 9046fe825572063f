#include "kernels/detail/screen.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "kernels/detail/encode_tile.h"
#include "kernels/detail/pack_vectors.h"
#include "kernels/parallel.h"

namespace thresher::kernels {
namespace detail {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Sums of 2^16 products of bytes fit 32 bits; bytes pay from these sizes on.
constexpr std::int64_t kMostDepth = std::int64_t{1} << 16;
constexpr std::int64_t kLeastDepth = 32, kLeastLatents = 512, kLeastRows = 64;

/// A bound is guessed from a few more than k: should some of them be smaller than the tile says, k
/// are left.
constexpr std::int64_t places_of(std::int64_t k) { return k + k / 8 + 2; }

// Disjoint sets of latents a place: the more, the closer their maxima are to the largest values.
constexpr std::int64_t kSetsAPlace = 4;

// As a block of packed columns for all rows, the rows of a block for all columns should stay in a
// thread's second-level cache.
constexpr std::int64_t kRowBlockBytes = std::int64_t{512} << 10;
constexpr std::int64_t kUpperBytes = std::int64_t{8} << 20;

// When more than this part of the pairs is computed in vain, floats are faster than bytes.
constexpr double kMostInVain = 0.2;
constexpr std::int64_t kCallsInFloats = 31;

std::atomic<std::int64_t> g_pairs, g_survivors;
std::atomic<double> g_limit;

/// The mean of error / norm where something is known.
double relative_error(const AlignedVector<float>& error, const AlignedVector<float>& norm) {
  double sum = 0, count = 0;
  for (std::size_t i = 0; i < error.size(); ++i) {
    if (!(norm[i] > 0) || !std::isfinite(error[i])) continue;
    sum += static_cast<double>(error[i]) / static_cast<double>(norm[i]);
    count += 1;
  }
  return count > 0 ? sum / count : 0;
}

}  // namespace

/// A thread's working memory.
struct Screen::Scratch {
  AlignedVector<float> upper;  // [tiles of columns][rows of the block][cols]
  // By row of the block: bounds, guessed ones, those from before, what was computed.
  std::vector<float> bounds, guesses, before, best;
  // Pairs of one tile of columns, latent by latent.
  std::vector<const float*> x, w;
  std::vector<Found> found;
  std::vector<float> z;
  std::vector<std::uint32_t> hits;  // a row
  bool is_first_look = true;
  std::int64_t pairs = 0, survivors = 0, taken = 0;
};

Screen::Screen(CpuIsa isa, Screening screening)
    : floats_(float_screen_tile(isa)),
      bytes_(screening == Screening::kOff ? nullptr
                                          : byte_screen_tile(isa, screening == Screening::kOn)),
      tile_(&floats_),
      screening_(screening) {}

Screen::~Screen() = default;

void Screen::Side::resize(std::int64_t packed_floats, std::int64_t count) {
  packed.resize(static_cast<std::size_t>(packed_floats));
  for (auto* values : {&scale, &error, &norm}) values->assign(static_cast<std::size_t>(count), 0);
}

void Screen::choose_tile(const EncoderProduct& product, std::int64_t k) {
  d_ = product.d;
  k_ = k;
  bool in_bytes = bytes_ != nullptr && d_ <= kMostDepth;
  if (screening_ == Screening::kAuto) {
    in_bytes = in_bytes && d_ >= kLeastDepth && product.n_latents >= kLeastLatents &&
               product.rows >= kLeastRows && 8 * k <= product.n_latents && calls_in_floats_-- <= 0;
  }
  tile_ = in_bytes ? bytes_ : &floats_;
  // Twice d roundings, of the tile's sum and of the pair's; the rest is for scaling and for the
  // limits themselves.
  rounding_ = static_cast<float>(2 * d_ + 32) * 0x1.04p-24f;
  const std::int64_t sets = std::min(kSetsAPlace * places_of(k), product.n_latents);
  n_maxima_ = k == 0 ? 0 : tiles_of(sets, tile_->cols) * tile_->cols;
  if (in_bytes) choose_factors(product);
}

std::int64_t Screen::tile_floats(std::int64_t width) const {
  return width * (tile_->is_bytes ? tiles_of(d_, kByteGroup) : d_);
}

std::int64_t Screen::block_tiles() const {
  return std::max<std::int64_t>(1, kRowBlockBytes / (tile_->rows * d_ * 4));
}

void Screen::run(const EncoderProduct& product, std::int64_t k, float row_bound,
                 const float* column_bounds, Taker& taker) {
  if (product.rows == 0 || product.n_latents == 0) return;
  choose_tile(product, k);
  pack_rows(product, row_bound);
  const std::int64_t block = block_tiles();
  const std::int64_t most_tiles = std::max<std::int64_t>(
      1, std::min(EncodeSelect::kPackedBytes / (4 * tile_floats(tile_->cols)),
                  kUpperBytes / (4 * block * tile_->rows * tile_->cols)));
  const std::int64_t n_tiles = tiles_of(product.n_latents, tile_->cols);
  for (std::int64_t t = 0; t < n_tiles; t += most_tiles) {
    const std::int64_t first = t * tile_->cols;
    const std::int64_t tiles = std::min(most_tiles, n_tiles - t);
    const Chunk chunk{first, std::min(tiles * tile_->cols, product.n_latents - first), tiles};
    pack_columns(product, chunk, column_bounds);
    parallel_for(tiles_of(product.rows, tile_->rows), 1, [&](std::int64_t begin, std::int64_t end) {
      std::unique_ptr<Scratch> scratch = take_scratch();
      for (std::int64_t at = begin; at < end; at += block) {
        run_block(product, chunk, at, std::min(at + block, end), *scratch, taker);
      }
      give_back(std::move(scratch));
    });
  }
  finish();
}

void Screen::run_block(const EncoderProduct& product, const Chunk& chunk, std::int64_t first,
                       std::int64_t last, Scratch& scratch, Taker& taker) {
  const std::int64_t first_row = first * tile_->rows;
  const std::int64_t n_rows = std::min(last * tile_->rows, product.rows) - first_row;
  limit(chunk, first, last, scratch);
  guess(first_row, n_rows, scratch);
  scratch.is_first_look = true;
  scratch.pairs += n_rows * chunk.count;
  look(product, chunk, first, last, scratch, taker);
  // Nothing below a guess was taken. Where it was too high, the rest follows.
  if (!has_wrong_guess(first_row, n_rows, scratch, taker)) return;
  scratch.is_first_look = false;
  look(product, chunk, first, last, scratch, taker);
}

void Screen::limit(const Chunk& chunk, std::int64_t first, std::int64_t last, Scratch& scratch) {
  const std::int64_t places = last - first;
  const std::int64_t tile_values = tile_->rows * tile_->cols;
  scratch.upper.resize(
      std::max(scratch.upper.size(), static_cast<std::size_t>(chunk.tiles * places * tile_values)));
  const std::int64_t column_floats = tile_floats(tile_->cols);
  const std::int64_t block = std::max<std::int64_t>(1, kColumnBlockBytes / (4 * column_floats));
  const std::int64_t sets = std::max<std::int64_t>(1, n_maxima_ / tile_->cols);
  for (std::int64_t b = 0; b < chunk.tiles; b += block) {
    for (std::int64_t rt = first; rt < last; ++rt) {
      const std::int64_t row = rt * tile_->rows;
      const ScreenRows rows{rows_.packed.data() + rt * tile_floats(tile_->rows),
                            start_.data() + row, rows_.scale.data() + row, rows_.error.data() + row,
                            rows_.norm.data() + row};
      for (std::int64_t t = b; t < std::min(b + block, chunk.tiles); ++t) {
        const std::int64_t at = t * tile_->cols;
        const ScreenColumns columns{columns_.packed.data() + t * column_floats,
                                    columns_.scale.data() + at,
                                    bias_.data() + at,
                                    columns_.norm.data() + at,
                                    columns_.error.data() + at,
                                    slack_.data() + at};
        float* maxima =
            k_ == 0 ? nullptr : maxima_.data() + row * n_maxima_ + t % sets * tile_->cols;
        tile_->run(d_, rows, columns,
                   scratch.upper.data() + (t * places + rt - first) * tile_values, maxima,
                   n_maxima_);
      }
    }
  }
}

void Screen::guess(std::int64_t first_row, std::int64_t n_rows, Scratch& scratch) {
  const auto begin = row_bounds_.begin() + first_row;
  scratch.before.assign(begin, begin + n_rows);
  scratch.bounds = scratch.before;
  scratch.guesses.assign(static_cast<std::size_t>(n_rows), -kInfinity);
  const std::int64_t places = places_of(k_);
  if (k_ == 0 || n_maxima_ < places) return;
  for (std::size_t r = 0; r < scratch.guesses.size(); ++r) {
    const auto row = static_cast<std::size_t>(first_row) + r;
    if (rows_.error[row] == kInfinity) continue;
    const float* maxima = maxima_.data() + row * static_cast<std::size_t>(n_maxima_);
    scratch.best.assign(maxima, maxima + n_maxima_);
    const auto place = scratch.best.begin() + (places - 1);
    std::nth_element(scratch.best.begin(), place, scratch.best.end(), std::greater<>());
    scratch.guesses[r] = *place;
    row_bounds_[row] = scratch.bounds[r] = std::max(row_bounds_[row], *place);
  }
}

void Screen::look(const EncoderProduct& product, const Chunk& chunk, std::int64_t first,
                  std::int64_t last, Scratch& scratch, Taker& taker) {
  const std::int64_t tile_values = tile_->rows * tile_->cols;
  const std::int64_t first_row = first * tile_->rows;
  const std::int64_t n_rows = std::min(last * tile_->rows, product.rows) - first_row;
  scratch.hits.resize(static_cast<std::size_t>((last - first) * tile_->rows));
  float limits[kMaxTileRows] = {};
  for (std::int64_t t = 0; t < chunk.tiles; ++t) {
    const std::int64_t first_column = t * tile_->cols;
    for (std::int64_t r = 0; r < n_rows; r += tile_->rows) {
      const std::int64_t count = std::min<std::int64_t>(tile_->rows, n_rows - r);
      if (!tile_->is_bytes) limits_of(t, first_row + r, count, limits);
      tile_->find(count, scratch.upper.data() + t * (last - first) * tile_values + r * tile_->cols,
                  limits, scratch.bounds.data() + r, column_bounds_.data() + first_column,
                  scratch.hits.data() + r);
    }
    collect(product, chunk.first + first_column, chunk.count - first_column, first_row, n_rows,
            scratch);
    tile_->dots(static_cast<std::int64_t>(scratch.found.size()), d_, scratch.x.data(),
                scratch.w.data(), scratch.z.data());
    give(product, chunk, first_row, scratch, taker);
  }
}

void Screen::limits_of(std::int64_t t, std::int64_t first_row, std::int64_t n_rows,
                       float* limits) const {
  const float norm = tile_norm_[static_cast<std::size_t>(t)];
  const float slack = tile_slack_[static_cast<std::size_t>(t)];
  const float* error = rows_.error.data() + first_row;
  for (std::int64_t r = 0; r < n_rows; ++r) limits[r] = error[r] * norm + slack;
}

void Screen::collect(const EncoderProduct& product, std::int64_t first_latent,
                     std::int64_t n_columns, std::int64_t first_row, std::int64_t n_rows,
                     Scratch& scratch) const {
  const std::uint32_t is_there =
      n_columns >= kMaxTileCols ? ~0U : (1U << static_cast<unsigned>(n_columns)) - 1;
  std::uint32_t places[kMaxTileCols + 1] = {};
  for (std::int64_t r = 0; r < n_rows; ++r) {
    std::uint32_t& hits = scratch.hits[static_cast<std::size_t>(r)];
    hits &= is_there;
    for (std::uint32_t left = hits; left != 0; left &= left - 1) ++places[__builtin_ctz(left) + 1];
  }
  for (int c = 0; c < kMaxTileCols; ++c) places[c + 1] += places[c];
  const std::size_t count = places[kMaxTileCols];
  scratch.found.resize(count);
  scratch.x.resize(count);
  scratch.w.resize(count);
  scratch.z.resize(count);
  for (std::int64_t r = 0; r < n_rows; ++r) {
    for (std::uint32_t left = scratch.hits[static_cast<std::size_t>(r)]; left != 0;
         left &= left - 1) {
      const int c = __builtin_ctz(left);
      const std::size_t place = places[c]++;
      scratch.found[place] = {first_row + r, static_cast<std::int32_t>(first_latent + c), 0};
      scratch.x[place] = product.x + (first_row + r) * d_;
      scratch.w[place] = product.W_enc + (first_latent + c) * d_;
    }
  }
}

void Screen::give(const EncoderProduct& product, const Chunk& chunk, std::int64_t first_row,
                  Scratch& scratch, Taker& taker) {
  scratch.survivors += static_cast<std::int64_t>(scratch.found.size());
  for (std::size_t i = 0; i < scratch.found.size(); ++i) {
    Found& found = scratch.found[i];
    found.z = scratch.z[i] + product.b_enc[found.latent];
    const auto place = static_cast<std::size_t>(found.row - first_row);
    float& bound = row_bounds_[static_cast<std::size_t>(found.row)];
    if (found.z < bound) continue;
    if (found.z < column_bounds_[static_cast<std::size_t>(found.latent - chunk.first)]) continue;
    // The first look has taken what reaches the guess, and NaN.
    if (!scratch.is_first_look && !(found.z < scratch.guesses[place])) continue;
    ++scratch.taken;
    taker.take(found, bound);
    scratch.bounds[place] = std::max(scratch.bounds[place], bound);
  }
}

bool Screen::has_wrong_guess(std::int64_t first_row, std::int64_t n_rows, Scratch& scratch,
                             Taker& taker) {
  bool is_any_wrong = false;
  for (std::int64_t r = 0; r < n_rows; ++r) {
    const auto place = static_cast<std::size_t>(r);
    float& bound = row_bounds_[static_cast<std::size_t>(first_row + r)];
    float& guess = scratch.guesses[place];
    // A bound beyond the guess was raised by k that are there.
    const bool is_right =
        !(guess > scratch.before[place]) || bound > guess || taker.is_reached(first_row + r, guess);
    if (is_right) {
      guess = -kInfinity;  // nothing is left to take
      scratch.bounds[place] = kInfinity;
    } else {
      bound = scratch.bounds[place] = scratch.before[place];
      is_any_wrong = true;
    }
  }
  return is_any_wrong;
}

std::unique_ptr<Screen::Scratch> Screen::take_scratch() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) return std::make_unique<Scratch>();
  std::unique_ptr<Scratch> scratch = std::move(free_.back());
  free_.pop_back();
  return scratch;
}

void Screen::give_back(std::unique_ptr<Scratch> scratch) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(scratch));
}

void Screen::finish() {
  std::int64_t pairs = 0, survivors = 0, taken = 0;
  for (const auto& scratch : free_) {
    pairs += std::exchange(scratch->pairs, 0);
    survivors += std::exchange(scratch->survivors, 0);
    taken += std::exchange(scratch->taken, 0);
  }
  if (!tile_->is_bytes) return;
  g_pairs += pairs;
  g_survivors += survivors;
  g_limit = relative_error(rows_.error, rows_.norm) + relative_error(columns_.error, columns_.norm);
  if (static_cast<double>(survivors - taken) > kMostInVain * static_cast<double>(pairs)) {
    calls_in_floats_ = kCallsInFloats;
  }
}

}  // namespace detail

ScreeningFigures screening_figures() {
  return {detail::g_pairs, detail::g_survivors, detail::g_limit};
}

}  // namespace thresher::kernels
