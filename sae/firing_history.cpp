#include "sae/firing_history.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <span>

#include "core/error.h"

namespace thresher::sae {

FiringHistory::FiringHistory(std::int64_t n_latents)
    : fired_(static_cast<std::size_t>(n_latents), 0),
      tokens_since_fired_(at::zeros({n_latents}, at::kLong)) {}

void FiringHistory::begin_step() { std::fill(fired_.begin(), fired_.end(), 0); }

void FiringHistory::fire_dense(const at::Tensor& latent_acts) {
  const auto n_latents = static_cast<std::int64_t>(fired_.size());
  THRESHER_CHECK(latent_acts.is_contiguous() && latent_acts.size(1) == n_latents,
                 "firings are counted on contiguous [rows, n_latents]");
  const float* row = latent_acts.const_data_ptr<float>();
  for (std::int64_t r = 0; r < latent_acts.size(0); ++r, row += n_latents) {
    for (std::int64_t i = 0; i < n_latents; ++i) fired_[i] += row[i] > 0 ? 1 : 0;
  }
}

void FiringHistory::finish_step(comm::Communicator& comm, std::int64_t batch_tokens,
                                const std::string& what) {
  comm.all_reduce_sum(std::span<std::int64_t>(fired_), what);
  auto* silent = tokens_since_fired_.mutable_data_ptr<std::int64_t>();
  for (std::size_t i = 0; i < fired_.size(); ++i) {
    silent[i] = fired_[i] > 0 ? 0 : silent[i] + batch_tokens;
  }
}

void FiringHistory::revive(std::int64_t latent) {
  tokens_since_fired_.mutable_data_ptr<std::int64_t>()[latent] = 0;
}

std::int64_t FiringHistory::mark_dead(std::int64_t window_tokens,
                                      std::vector<std::uint8_t>& mask) const {
  mask.resize(fired_.size());
  const auto* silent = tokens_since_fired_.const_data_ptr<std::int64_t>();
  std::int64_t n_dead = 0;
  for (std::size_t i = 0; i < mask.size(); ++i) {
    mask[i] = silent[i] >= window_tokens ? 1 : 0;
    n_dead += mask[i];
  }
  return n_dead;
}

std::int64_t FiringHistory::count_dead(std::int64_t window_tokens) const {
  const auto* silent = tokens_since_fired_.const_data_ptr<std::int64_t>();
  return std::count_if(silent, silent + fired_.size(),
                       [=](std::int64_t tokens) { return tokens >= window_tokens; });
}

}  // namespace thresher::sae
