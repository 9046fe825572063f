#pragma once

#include <cstdint>
#include <filesystem>
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
  std::int64_t tokens = 16384;       // of held-out text
  bool baselines = true;             // PCA, untrained SAE, shuffled decoder rows
  void declare(FieldVisitor& fields);
};

/// One SAE (or baseline) to measure at a hook point.
struct Candidate {
  std::string name;
  std::string hook_point;
  sae::InferenceSae sae;
};

/// What the evaluation needs of the cache that the SAEs were trained on: which positions count, and the
/// training mean for mean ablation.
struct EvaluationContext {
  activation_cache::CacheConfig cache;
  std::vector<double> norm_limits;                   // one a hook point of the cache
  std::vector<std::vector<double>> training_means;   // one a hook point
};

/// Measures every candidate on held-out contexts: reconstruction on kept positions, and cross-entropy with the
/// reconstruction spliced in at kept positions (others stay as they are in every spliced and ablated run and out of
/// every average). Returns {"n_tokens": ..., "candidates": {name: {metrics of design 4.8}}}. Contexts are dealt to ranks
/// and sums reduced in context order, so figures do not depend on the number of ranks.
Json evaluate(const EvaluationConfig& config, const std::vector<Candidate>& candidates, const EvaluationContext& context,
              const corpus::PackedContexts& held_out, const corpus::Tokenizer& tokenizer, host_model::HostModel& model,
              comm::Communicator& comm);


/// The table a researcher would put in a notebook.
std::string evaluation_table(const Json& evaluation);

}  // namespace thresher::evaluation
