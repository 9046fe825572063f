#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "kernels/detail/aligned.h"
#include "kernels/detail/screen_tile.h"
#include "kernels/encode_select.h"

namespace thresher::kernels::detail {

/// Finds the pre-activations of a product that reach the bounds of their row and column. A tile
/// computes quickly, in bytes or in floats, limits above which none of a block lies; what the
/// limits leave open is computed by itself, with the bits that encode_select.h promises. So which
/// tile it is changes no result.
///
/// Where the k largest of a row are wanted, its bound is guessed from the products of the tiles,
/// which are much closer to the truth than their limits; if fewer than k reach the guess, the row
/// is looked at once more.
class Screen {
 public:
  /// A pre-activation that was computed.
  struct Found {
    std::int64_t row;
    std::int32_t latent;
    float z;
  };
  /// What becomes of it. A row belongs to one thread; its calls come by ascending latents.
  class Taker {
   public:
    virtual ~Taker() = default;
    /// `found` reaches the bounds, or is NaN. May raise the row's bound.
    virtual void take(const Found& found, float& row_bound) = 0;
    /// Whether k of what was taken of this row reach `bound`.
    virtual bool is_reached(std::int64_t row, float bound) = 0;
  };

  Screen(CpuIsa isa, Screening screening);
  ~Screen();

  /// With k > 0 the k largest of each row are wanted (all of them are taken), else what reaches the
  /// bounds: row_bound, and column_bounds [n_latents] unless it is null.
  void run(const EncoderProduct& product, std::int64_t k, float row_bound,
           const float* column_bounds, Taker& taker);

 private:
  struct Scratch;
  /// Columns that are packed at a time.
  struct Chunk {
    std::int64_t first, count, tiles;
  };
  /// Packed rows or columns.
  struct Side {
    AlignedVector<float> packed;
    AlignedVector<float> scale, error, norm;
    void resize(std::int64_t packed_floats, std::int64_t count);
  };

  void choose_tile(const EncoderProduct& product, std::int64_t k);
  void choose_factors(const EncoderProduct& product);
  void pack_rows(const EncoderProduct& product, float row_bound);
  void pack_columns(const EncoderProduct& product, const Chunk& chunk, const float* bounds);
  std::int64_t tile_floats(std::int64_t width) const;
  std::int64_t block_tiles() const;
  /// All columns of the chunk for the row tiles [first, last).
  void run_block(const EncoderProduct& product, const Chunk& chunk, std::int64_t first,
                 std::int64_t last, Scratch& scratch, Taker& taker);
  void limit(const Chunk& chunk, std::int64_t first, std::int64_t last, Scratch& scratch);
  void guess(std::int64_t first_row, std::int64_t n_rows, Scratch& scratch);
  void look(const EncoderProduct& product, const Chunk& chunk, std::int64_t first,
            std::int64_t last, Scratch& scratch, Taker& taker);
  /// How far pre-activations may lie above the floats of a tile of columns, by row.
  void limits_of(std::int64_t t, std::int64_t first_row, std::int64_t n_rows, float* limits) const;
  /// The pairs that were found in a tile of columns, in the order of their latents.
  void collect(const EncoderProduct& product, std::int64_t first_latent, std::int64_t n_columns,
               std::int64_t first_row, std::int64_t n_rows, Scratch& scratch) const;
  void give(const EncoderProduct& product, const Chunk& chunk, std::int64_t first_row,
            Scratch& scratch, Taker& taker);
  bool has_wrong_guess(std::int64_t first_row, std::int64_t n_rows, Scratch& scratch, Taker& taker);
  std::unique_ptr<Scratch> take_scratch();
  void give_back(std::unique_ptr<Scratch> scratch);
  void finish();

  const ScreenTile& floats_;
  const ScreenTile* bytes_;
  const ScreenTile* tile_;
  Screening screening_;
  std::int64_t calls_in_floats_ = 0;
  std::int64_t d_ = 0, k_ = 0;
  std::int64_t n_maxima_ = 0;  // a row: products of disjoint sets of latents
  float rounding_ = 0;
  std::vector<float> row_factors_, column_factors_;  // [d], of bytes
  Side rows_, columns_;
  std::vector<std::int32_t> start_;
  AlignedVector<float> maxima_, bias_, slack_, column_bounds_;
  std::vector<float> tile_norm_, tile_slack_;  // the largest of a tile of columns
  std::vector<float> row_bounds_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

}  // namespace thresher::kernels::detail
