#include "tests/kernels/backend.h"

namespace thresher::kernels {

SortedLane::SortedLane(const Lane& lane, std::int64_t n_latents)
    : offsets(static_cast<std::size_t>(n_latents + 1), -1),
      pair_rows(lane.indices.size(), -1),
      pair_slots(pair_rows) {
  sort_pairs_by_latent(rows_of(lane.row_offsets), n_latents, lane.row_offsets.data(),
                       lane.indices.data(), lane.values.data(), offsets.data(), pair_rows.data(),
                       pair_slots.data());
}

LatentPairs SortedLane::view(const Lane& lane) const {
  return {offsets.data(),          pair_rows.data(),      pair_slots.data(),  lane.values.data(),
          lane.grad_values.data(), lane.residuals.data(), lane.inputs.data(), lane.n_inputs};
}

}  // namespace thresher::kernels
