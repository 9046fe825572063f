#include "features/neuronpedia.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/visible_text.h"
#include "host_model/host_model.h"

namespace thresher::features {
namespace {

const char* origin(StoredExample::Kind kind) {
  switch (kind) {
    case StoredExample::Kind::kTop:
      return "top";
    case StoredExample::Kind::kQuantile:
      return "quantile";
    case StoredExample::Kind::kSilent:
      break;
  }
  return "silent";
}

Json activation_json(const StoredExample& example, const Json& index,
                     const NeuronpediaNames& names) {
  Json tokens = Json::array(), values = Json::array();
  for (const std::string& token : example.tokens) tokens.push_back(visible_text(token));
  for (const float value : example.activations) values.push_back(static_cast<double>(value));
  const auto largest = std::max_element(example.activations.begin(), example.activations.end());
  const auto smallest = std::min_element(example.activations.begin(), example.activations.end());
  const bool is_empty = example.activations.empty();
  return Json::object(
      {{"modelId", names.model},
       {"layer", names.layer},
       {"index", index},
       {"tokens", tokens},
       {"values", values},
       {"maxValue", is_empty ? Json() : Json(static_cast<double>(*largest))},
       {"maxValueTokenIndex",
        is_empty ? Json() : Json(static_cast<std::int64_t>(largest - example.activations.begin()))},
       {"minValue", is_empty ? Json() : Json(static_cast<double>(*smallest))},
       {"dataIndex", fmt::format("{}:{}", example.context, example.start)},
       {"origin", origin(example.kind)}});
}

void add_effects(Json& out, const std::vector<TokenEffect>& effects, const std::string& prefix) {
  Json tokens = Json::array(), values = Json::array();
  for (const TokenEffect& effect : effects) {
    tokens.push_back(visible_text(effect.token));
    values.push_back(static_cast<double>(effect.effect));
  }
  out[prefix + "_str"] = tokens;
  out[prefix + "_values"] = values;
}

void add_histogram(Json& out, const StoredFeature& feature) {
  Json middles = Json::array(), heights = Json::array();
  for (const auto& [bin, count] : feature.histogram) {
    middles.push_back((histogram_edge(bin) + histogram_edge(bin + 1)) / 2);
    heights.push_back(count);
  }
  out["freq_hist_data_bar_values"] = middles;
  out["freq_hist_data_bar_heights"] = heights;
}

}  // namespace

NeuronpediaNames neuronpedia_names(const std::string& model, const Json& facts) {
  const std::string hook_point = facts.at("hook_point").as_string();
  const std::int64_t block = host_model::HookPoint::parse(hook_point).block;
  return {model, fmt::format("{}-{}", block < 0 ? hook_point : fmt::format("{}", block),
                             facts.at("sae").as_string())};
}

Json neuronpedia_feature(const StoredFeature& feature, const NeuronpediaNames& names) {
  const Json index(fmt::format("{}", feature.summary.latent));  // text there, too
  Json out = Json::object({{"modelId", names.model},
                           {"layer", names.layer},
                           {"index", index},
                           {"maxActApprox", static_cast<double>(feature.summary.maximum)},
                           {"frac_nonzero", feature.summary.density}});
  add_effects(out, feature.promoted, "pos");
  add_effects(out, feature.suppressed, "neg");
  add_histogram(out, feature);
  Json indices = Json::array(), cosines = Json::array();
  for (const NeighbourLatent& one : feature.neighbours) {
    indices.push_back(one.latent);
    cosines.push_back(static_cast<double>(one.cosine));
  }
  out["topkCosSimIndices"] = indices;
  out["topkCosSimValues"] = cosines;
  Json explanations = Json::array();
  for (const StoredExplanation& one : feature.explanations) {
    explanations.push_back(Json::object({{"modelId", names.model},
                                         {"layer", names.layer},
                                         {"index", index},
                                         {"description", visible_text(one.text)},
                                         {"typeName", one.method},
                                         {"explanationModelName", one.model},
                                         {"scores", one.scores}}));
  }
  out["explanations"] = explanations;
  Json activations = Json::array();
  for (const StoredExample& example : feature.examples) {
    if (example.kind == StoredExample::Kind::kSilent) continue;
    activations.push_back(activation_json(example, index, names));
  }
  out["activations"] = activations;
  return out;
}

Json neuronpedia_search_result(const LatentSummary& summary, const NeuronpediaNames& names) {
  Json tokens = Json::array();
  for (const std::string& token : summary.tokens) tokens.push_back(visible_text(token));
  return Json::object({{"modelId", names.model},
                       {"layer", names.layer},
                       {"index", fmt::format("{}", summary.latent)},
                       {"description", visible_text(summary.explanation)},
                       {"tokens", tokens},
                       {"frac_nonzero", summary.density},
                       {"maxActApprox", static_cast<double>(summary.maximum)}});
}

}  // namespace thresher::features
