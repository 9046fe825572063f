#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "activation_cache/own_activations.h"
#include "comm/communicator.h"
#include "evaluation/evaluation.h"

namespace thresher::evaluation {

/// Why figures of a run on somebody's own activations have no cross-entropy.
inline constexpr const char* kNoHostModel =
    "it needs a host model, and this run reads activations alone";

/// The held-out rows that an evaluation looks at: at most `config.tokens` of them, ascending.
/// ConfigError where nothing is held out.
std::vector<std::int64_t> choose_held_out_rows(const EvaluationConfig& config,
                                               const activation_cache::OwnActivations& rows);

/// Reads chosen rows batch by batch (always the same ones, whatever the number of ranks) and leaves
/// out those above the cache's norm limits. Everything is borrowed.
class RowBatches {
 public:
  static constexpr std::int64_t kRows = 1024;  // of a batch
  RowBatches(const activation_cache::OwnActivations& rows, const std::vector<std::int64_t>& chosen,
             const EvaluationContext& context);
  std::int64_t size() const;                       // batches
  std::int64_t rows_in(std::int64_t batch) const;  // before any is left out
  /// Kept rows of a batch at every hook point of the cache: [kept, d_in] float32 each.
  std::vector<at::Tensor> read(std::int64_t batch) const;

 private:
  const activation_cache::OwnActivations* rows_;
  const std::vector<std::int64_t>* chosen_;
  const EvaluationContext* context_;
};

/// `evaluate` without a host model: reconstruction and latents on held-out rows as they stand in
/// the files. Figures of cross-entropy are null, and "ce_not_measured" says why. Returns
///
///     {"n_tokens", "n_dropped", "n_predictions": null, "ce_not_measured", "rows_sha256",
///      "candidates": ..., "timing": ...}
///
/// otherwise like `evaluate`; rows_sha256 is of the chosen row numbers as little-endian int64. All
/// but `timing` is the same for every number of ranks. Collective. StoppedBySignal when a stop was
/// requested; ConfigError when no row is left to measure on.
Json evaluate_rows(const std::vector<Candidate>& candidates,
                   const activation_cache::OwnActivations& rows,
                   const std::vector<std::int64_t>& chosen, const EvaluationContext& context,
                   comm::Communicator& comm);

}  // namespace thresher::evaluation
