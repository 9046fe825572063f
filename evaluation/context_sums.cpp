#include "evaluation/context_sums.h"

#include <cstring>
#include <span>

#include "core/error.h"
#include "kernels/tree_sum.h"

namespace thresher::evaluation {

void ContextSums::gather(const std::vector<double>& mine, comm::Communicator& comm) {
  const auto parts = comm.all_gather(std::as_bytes(std::span(mine)), "evaluation.sums");
  for (const std::vector<std::byte>& bytes : parts) {
    THRESHER_CHECK(bytes.size() % (columns_.size() * sizeof(double)) == 0,
                   "every context has all columns");
    std::vector<double> values(bytes.size() / sizeof(double));
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    for (std::size_t i = 0; i < values.size(); ++i)
      columns_[i % columns_.size()].push_back(values[i]);
  }
}

double ContextSums::total(std::size_t column) const {
  return kernels::tree_sum(std::span<const double>(columns_.at(column)));
}

}  // namespace thresher::evaluation
