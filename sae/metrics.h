#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "core/json.h"

namespace thresher::sae {

/// Streaming reconstruction metrics in float64, over any number of batches and ranks; equal to
/// brute force on all rows at once (definitions: docs/metrics.md). Robust to a large mean: second
/// moments are taken about a fixed shift (the mean of the first rows). What has no value (no rows,
/// no variance) is NaN, in JSON null.
class ReconstructionMetrics {
 public:
  ReconstructionMetrics(std::int64_t d_in, std::int64_t n_latents);
  /// Float32 rows x [N, d_in], their reconstructions, and dense latent activations [N, n_latents]
  /// (undefined: no latent metrics).
  void add(const at::Tensor& x, const at::Tensor& recon, const at::Tensor& latent_acts);
  /// Takes in the rows of `other` (same widths). The bits depend on the order of the calls, not on
  /// where rows were measured: whoever merges the same parts in the same order gets the same.
  void merge(const ReconstructionMetrics& other);
  /// Collective: merges one part of every rank (null: it has none) in rank order, on all ranks.
  /// Where the ranks take turns at batches, the bits are those of one rank that merges batch by
  /// batch.
  void merge_ranks(const ReconstructionMetrics* part, comm::Communicator& comm);
  /// All sums as bytes, for a rank of the same program, and back.
  std::vector<std::byte> to_bytes() const;
  static ReconstructionMetrics from_bytes(std::int64_t d_in, std::int64_t n_latents,
                                          std::span<const std::byte> bytes);

  std::int64_t n_tokens() const;
  double fvu() const;  // sum |x - recon|^2 / sum |x - mean|^2, mean over the evaluation set
  double explained_variance() const;  // 1 - fvu
  double mse() const;                 // mean over tokens and dimensions
  double cosine_similarity() const;   // mean over tokens
  double l0() const;
  double l1() const;             // mean over tokens of the sum of latent activations
  double dead_fraction() const;  // latents silent on all rows added
  double dense_fraction(
      double frequency = 0.1) const;  // latents that fire on more than this part of the rows
  std::vector<std::int64_t> fire_counts() const;
  /// Counts of latents by log10 firing frequency: bins of width 0.5 from -6 to 0; the silent ones
  /// apart. The first bin also holds all below it, the last includes 0. {"log10_edges": [13],
  /// "counts": [12], "silent": n}
  Json density_histogram() const;
  /// All of the above (but fire_counts) under their names in docs/metrics.md.
  Json json() const;

 private:
  void set_shift(const at::Tensor& x);
  void move_shift(const std::vector<double>& shift);
  void add_reconstruction(const at::Tensor& x, const at::Tensor& recon);
  void add_latents(const at::Tensor& latent_acts);

  std::int64_t d_in_, n_latents_;
  std::int64_t n_tokens_ = 0;
  bool has_shift_ = false, has_latents_ = false;
  std::vector<double> shift_, sum_;  // [d_in]: sum of (x - shift)
  double sum_squares_ = 0;           // of (x - shift)
  double sum_squared_error_ = 0, sum_cosine_ = 0, sum_l0_ = 0, sum_l1_ = 0;
  std::vector<std::int64_t> fire_counts_;
};

}  // namespace thresher::sae
