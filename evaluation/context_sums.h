#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"

namespace thresher::evaluation {

/// Sums a context, of several quantities (columns), over all contexts of an evaluation; every rank
/// holds all.
class ContextSums {
 public:
  explicit ContextSums(std::size_t n_columns = 0) : columns_(n_columns) {}
  std::size_t n_columns() const { return columns_.size(); }
  /// Adds the contexts of a round, rank by rank: `mine` is [contexts, columns], row-major, empty
  /// for a rank without any. Collective.
  void gather(const std::vector<double>& mine, comm::Communicator& comm);
  /// Of all contexts, along the binary tree over contexts.
  double total(std::size_t column) const;

 private:
  std::vector<std::vector<double>> columns_;
};

}  // namespace thresher::evaluation
