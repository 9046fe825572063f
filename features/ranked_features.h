#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace thresher::features {

/// Features of some documents as ranks, so that the AUROC of every feature for any labels of the
/// same documents is one matrix product.
class RankedFeatures {
 public:
  /// `values` [documents, features] float32 without NaN; at most 4 million documents.
  explicit RankedFeatures(const at::Tensor& values);

  std::int64_t n_features() const { return ranks_.size(0); }
  /// AUROC of each feature for each column of `labels` [documents, columns] of 0 and 1, as
  /// [features, columns] float64; NaN where a column has one value only.
  at::Tensor aurocs(const at::Tensor& labels) const;
  /// The same for one set of labels, one value a feature.
  std::vector<double> aurocs(std::span<const std::uint8_t> is_positive) const;
  /// See tie_term in features/statistics.h; one a feature.
  const std::vector<double>& tie_terms() const { return tie_terms_; }

 private:
  at::Tensor ranks_;  // [features, documents] float32: midranks, halves, hence exact
  std::vector<double> tie_terms_;
};

/// The `n` features whose AUROC is largest, or with `either_side` farthest from 0.5; equal ones by
/// number. NaN counts as 0.5.
std::vector<std::int64_t> best_features(std::span<const double> aurocs, std::int64_t n,
                                        bool either_side);

}  // namespace thresher::features
