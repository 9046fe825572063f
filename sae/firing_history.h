#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace thresher::sae {

/// For how many global tokens every latent has been silent, and which latents fire in the current
/// step. A latent fires when its activation is above 0 for any token of the global batch.
class FiringHistory {
 public:
  explicit FiringHistory(std::int64_t n_latents);

  /// Forgets the current step's firing.
  void begin_step();
  /// Adds one firing of `latent`.
  void fire(std::int64_t latent) { ++fired_[static_cast<std::size_t>(latent)]; }
  /// Adds the firings of dense latent activations [rows, n_latents].
  void fire_dense(const at::Tensor& latent_acts);
  /// Sums the firings over ranks; silent latents have `batch_tokens` more tokens behind them.
  void finish_step(comm::Communicator& comm, std::int64_t batch_tokens, const std::string& what);

  /// Counts `latent` as having just fired.
  void revive(std::int64_t latent);

  /// 1 for latents silent for at least `window_tokens`; returns how many there are.
  std::int64_t mark_dead(std::int64_t window_tokens, std::vector<std::uint8_t>& mask) const;
  std::int64_t count_dead(std::int64_t window_tokens) const;

  /// int64 [n_latents]; shares memory with this object.
  const at::Tensor& tokens_since_fired() const { return tokens_since_fired_; }

 private:
  std::vector<std::int64_t> fired_;
  at::Tensor tokens_since_fired_;
};

}  // namespace thresher::sae
