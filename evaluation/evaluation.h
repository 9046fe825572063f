#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "activation_cache/harvest/harvest.h"
#include "comm/communicator.h"
#include "core/config.h"
#include "core/json.h"
#include "corpus/corpus.h"
#include "host_model/host_model.h"
#include "sae/inference_sae.h"

namespace thresher::evaluation {

struct EvaluationConfig {
  std::int64_t tokens = 16384;  // of held-out text
  bool baselines = true;        // PCA, untrained SAE, shuffled decoder rows
  void declare(FieldVisitor& fields);
};

/// What a candidate makes of activations.
struct Reconstruction {
  at::Tensor recon;        // [N, d_in] float32
  at::Tensor latent_acts;  // [N, n_latents] float32; undefined when there are no latents
  Reconstruction on_host() const;
};

/// Something that reconstructs the activations of a hook point: an SAE, or a baseline to compare it
/// with.
struct Candidate {
  std::string name;         // distinct; of a baseline, distinct among those of its SAE
  std::string baseline_of;  // the name of the SAE; empty for an SAE itself
  std::string hook_point;   // one of the cache's
  std::int64_t d_in = 0;
  std::int64_t n_latents = 0;  // 0 when there are no latents
  /// x [N, d_in] float32, raw activations, on any device; the result lies where the candidate
  /// works. Row by row: what a row becomes does not depend on the others.
  std::function<Reconstruction(const at::Tensor& x)> apply;
  /// What else the figures should say, e.g. {"n_components": 32, "l0": 32} of PCA.
  Json facts = Json::object();
};

/// `sae` is kept by the candidate, which works on the device of its weights.
Candidate sae_candidate(const std::string& name, const std::string& hook_point,
                        const sae::InferenceSae& sae);

/// What the evaluation needs of the cache that the SAEs were trained on: which positions count, and
/// the training mean for mean ablation.
struct EvaluationContext {
  activation_cache::CacheConfig cache;
  std::vector<double> norm_limits;  // one a hook point of the cache; empty: no limit
  std::vector<std::vector<double>> training_means;  // one a hook point of the cache, [d_in]
};

/// From a complete cache: limits from its identity, means from its statistics.
EvaluationContext make_evaluation_context(const activation_cache::CacheConfig& cache,
                                          const activation_cache::ActivationSource& source);

/// Measures every candidate on the first `config.tokens` tokens of the held-out contexts (on all of
/// them, with a warning, if there are fewer): reconstruction on kept positions, and cross-entropy
/// with the reconstruction spliced in at kept positions. Others stay as they are in every spliced
/// and ablated run and out of every average. Cross-entropy (nats) and KL divergence are averaged
/// over the positions that are kept and whose next token lies in the same context and document.
/// Returns
///
///     {"n_tokens", "n_dropped", "n_predictions", "contexts_sha256",
///      "candidates": {NAME: {"hook_point", "n_latents", the metrics of docs/metrics.md,
///      "baselines": {NAME: {...}}}}, "timing": {"seconds", "tokens_per_second": {NAME: ...}}}
///
/// where a baseline's name in `timing` is "SAE/BASELINE". All but `timing` is the same for every
/// number of ranks: batches of contexts are fixed, dealt to ranks, and summed in context order.
/// Collective; every rank gets the result. StoppedBySignal when a stop was requested; ConfigError
/// when no position is left to average over.
Json evaluate(const EvaluationConfig& config, const std::vector<Candidate>& candidates,
              const EvaluationContext& context, const corpus::PackedContexts& held_out,
              const corpus::Tokenizer& tokenizer, host_model::HostModel& model,
              comm::Communicator& comm);

/// The table a researcher would put in a notebook: a line for every SAE, its baselines under it.
/// `timing` may be missing; figures that something does not have are "-".
std::string evaluation_table(const Json& evaluation);

}  // namespace thresher::evaluation
