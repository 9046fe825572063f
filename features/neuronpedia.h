#pragma once

#include <string>

#include "core/json.h"
#include "features/feature_store.h"

namespace thresher::features {

/// Names under which Neuronpedia's API would know a store's SAE: a name of the host model, and the
/// block and the SAE's name, "14-topk".
struct NeuronpediaNames {
  std::string model;
  std::string layer;
};
NeuronpediaNames neuronpedia_names(const std::string& model, const Json& facts);

/// What GET /api/feature/{modelId}/{layer}/{index} answers there, with the fields that a store can
/// fill: activations (with tokens and values), explanations, pos_str and neg_str with values,
/// frac_nonzero, freq_hist_data_bar_*, topkCosSim*, correlated_features_*. Tokens are made visible
/// (core/visible_text.h).
Json neuronpedia_feature(const StoredFeature& feature, const NeuronpediaNames& names);

/// One of the results of POST /api/explanation/search.
Json neuronpedia_search_result(const LatentSummary& summary, const NeuronpediaNames& names);

}  // namespace thresher::features
