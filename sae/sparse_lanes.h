#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/encode_select.h"
#include "kernels/sparse_decode.h"

namespace thresher::sae {

/// The sparse half of a training step, for every variant whose latents are few: what the lanes keep
/// between forward and backward, and the work on it. A step calls, in this order, take_inputs,
/// take_pairs (of what a variant selected from `product`), reconstruct; then, with factors applied
/// to values and value_gradients, accumulate.
class SparseLanes {
 public:
  /// Sparse rows are those of the main selection, then those of a second one (AuxK) where there is
  /// one; the rows of `residuals` are their errors: the main one's, and below it AuxK's.
  struct Lane {
    std::int64_t rows = 0;
    at::Tensor inputs;     // [rows, d_in], what the encoder sees; part of one tensor of all lanes
    at::Tensor residuals;  // [rows, d_in] or [2 rows, d_in]
    std::vector<std::int64_t> row_offsets;  // see kernels/sparse_decode.h
    std::vector<float> values;              // latent activations, at least 0
    std::vector<std::int32_t> indices;
    std::vector<float> value_gradients;  // residual . W_dec[latent]; 0 where the value is 0

    std::span<float> main(std::vector<float>& pairs) const {
      return std::span(pairs).first(n_main());
    }
    std::span<float> second(std::vector<float>& pairs) const {
      return std::span(pairs).subspan(n_main());
    }
    std::size_t n_main() const {
      return static_cast<std::size_t>(row_offsets[static_cast<std::size_t>(rows)]);
    }
    at::Tensor error() const;         // of the main selection, [rows, d_in]
    at::Tensor second_error() const;  // of the second

   private:
    friend class SparseLanes;
    std::vector<std::int64_t> offsets;  // pairs by latent, main before AuxK: [n_latents + 1]
    std::vector<std::int32_t> pair_rows, pair_slots;
  };

  SparseLanes(std::int64_t d_in, std::int64_t n_latents);

  std::vector<Lane>& lanes() { return lanes_; }
  const std::vector<Lane>& lanes() const { return lanes_; }

  /// Inputs are x - shift; an undefined shift is none.
  void take_inputs(const std::vector<at::Tensor>& lanes, const at::Tensor& shift);
  /// Of all lanes' inputs; W_enc latent-major.
  kernels::EncoderProduct product(const at::Tensor& W_enc, const at::Tensor& b_enc) const;
  /// Pairs of the rows of `product`; values below 0 become 0. `second` may be null.
  void take_pairs(const kernels::SelectedPairs& main, const kernels::SelectedPairs* second);
  /// residuals = targets - recon, and of the second selection (which has no bias) error - recon.
  /// An undefined b_dec is none.
  void reconstruct(const std::vector<at::Tensor>& targets, const at::Tensor& W_dec,
                   const at::Tensor& b_dec);
  /// Gradients, overwritten, of this rank's lanes along their tree:
  ///     W_dec[latent] = sum of values * residuals,  W_enc[latent] = sum of value_gradients *
  ///     inputs,  b_enc[latent] = sum of value_gradients
  /// A latent in both selections of a row has one list of pairs: two gradients added after their
  /// own sums over lanes would not have the same bits for every split of the lanes.
  void accumulate(at::Tensor& W_dec, at::Tensor& W_enc, at::Tensor& b_enc);
  /// What `accumulate` adds up, by lane. Points into this object.
  std::vector<kernels::LatentPairs> latent_pairs() const;

 private:
  void sort(Lane& lane);
  void take_pairs(Lane& lane, std::int64_t first_row, const kernels::SelectedPairs& selected);

  std::int64_t d_in_, n_latents_;
  at::Tensor inputs_;  // [rows, d_in], all local lanes
  std::vector<Lane> lanes_;
};

/// values *= factor, rounded once.
void scale_values(std::span<float> values, double factor);

}  // namespace thresher::sae
