#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/random.h"

namespace thresher::features {

/// The strongest activation of a latent in one context.
struct ContextPeak {
  float activation = 0;
  std::int32_t position = 0;
  std::int64_t context = 0;
};

/// Larger activation first, then the lower context, then the lower position.
bool is_stronger(const ContextPeak& a, const ContextPeak& b);

/// For each of n latents the `size` contexts in which it fires most, and `size` contexts drawn
/// uniformly from all in which it fires. A context is drawn by a hash of (latent, context), so both
/// lists depend on what was offered and on nothing else: not on the order, not on how the offers
/// were split between objects that are merged. Memory: n (16 n_top + 24 n_sampled) bytes.
class LatentLists {
 public:
  LatentLists(std::int64_t n_latents, std::int64_t n_top, std::int64_t n_sampled,
              std::uint64_t seed);
  /// Each (latent, context) once, with its peak.
  void offer(std::int64_t latent, const ContextPeak& peak);
  std::span<const ContextPeak> top(std::int64_t latent) const;  // strongest first
  std::vector<ContextPeak> sampled(std::int64_t latent) const;  // strongest first

  /// The lists of latents [first, end) as bytes, and what another object wrote offered to this one.
  std::vector<std::byte> pack(std::int64_t first, std::int64_t end) const;
  void merge(std::int64_t first, std::int64_t end, std::span<const std::byte> bytes);

 private:
  struct Drawn {
    std::uint64_t key = 0;
    ContextPeak peak;
  };
  void offer_top(std::int64_t latent, const ContextPeak& peak);
  void offer_drawn(std::int64_t latent, const Drawn& drawn);

  std::int64_t n_top_, n_sampled_;
  RandomStream draws_;
  std::vector<ContextPeak> top_;  // [n, n_top], sorted
  std::vector<Drawn> drawn_;      // [n, n_sampled], by key
  std::vector<std::int32_t> n_in_top_, n_drawn_;
};

}  // namespace thresher::features
