#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "comm/communicator.h"
#include "features/co_firing.h"
#include "features/context_source.h"
#include "features/firing_log.h"
#include "features/latent_lists.h"
#include "sae/inference_sae.h"

namespace thresher::features {

/// How much a store keeps. Everything here but max_tokens and max_pairs costs memory or disk for
/// each latent.
struct StoreOptions {
  std::int64_t max_tokens = 10'000'000;  // of text, rounded down to contexts
  std::int64_t n_top = 20;               // contexts of strongest activation
  std::int64_t n_quantiles = 5;
  std::int64_t n_per_quantile = 5;
  std::int64_t n_silent = 10;           // contexts drawn; of each a window without a firing
  std::int64_t window_tokens = 32;      // of a context that are shown
  std::int64_t window_before = 20;      // of these before the strongest activation
  std::int64_t n_listed = 10;           // promoted and suppressed tokens, neighbours, co-firing
  std::int64_t max_pairs = 1LL << 29U;  // co-firing counted, see CoFiringSample
  std::uint64_t seed = 0;
};

/// How often and how strongly latents fire, over whole numbers, so that sums do not depend on
/// their order.
struct LatentTallies {
  explicit LatentTallies(std::int64_t n_latents);
  void add(std::int64_t latent, float activation);
  void sum_over_ranks(comm::Communicator& comm);
  /// Sum of the activations to 2^-32 each.
  double sum(std::int64_t latent) const;

  std::vector<std::int64_t> n_fired, whole, fraction;  // of 2^-32
  std::vector<std::uint32_t> histogram;                // [n, kHistogramBins]
  std::int64_t n_tokens = 0;
};

/// One SAE's part of the pass over text, on one rank.
class LatentPass {
 public:
  LatentPass(const sae::InferenceSae& sae, const StoreOptions& options,
             std::int64_t context_tokens);
  /// Encodes the unit's rows, hook `hook` of it, and keeps what fires, also in `log`. DataError for
  /// activations that are no finite numbers.
  void add(const ContextUnit& unit, std::size_t hook, FiringLogWriter& log);
  /// Afterwards every rank has the tallies of all, rank 0 lists and sample of all. Collective.
  void merge(comm::Communicator& comm);
  /// Rows that are encoded at once: a function of the SAE alone, as rows of a product may differ in
  /// the last bit with their number.
  static std::int64_t batch_rows(const sae::InferenceSae& sae);

  const LatentLists& lists() const { return lists_; }
  const LatentTallies& tallies() const { return tallies_; }
  const CoFiringSample& co_firing() const { return co_firing_; }

 private:
  void add_row(const ContextUnit& unit, std::size_t row, const std::int32_t* latents,
               const float* activations, std::int64_t width);
  void begin_context(const ContextUnit& unit, std::int64_t local);
  void end_context(FiringLogWriter& log);

  const sae::InferenceSae* sae_;
  std::int64_t context_tokens_;
  LatentLists lists_;
  LatentTallies tallies_;
  CoFiringSample co_firing_;
  ContextFirings context_;
};

}  // namespace thresher::features
