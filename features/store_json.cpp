#include "core/visible_text.h"
#include "features/feature_store.h"

namespace thresher::features {
namespace {

Json effects_json(const std::vector<TokenEffect>& effects) {
  Json out = Json::array();
  for (const TokenEffect& one : effects) {
    out.push_back(Json::object({{"id", static_cast<std::int64_t>(one.token_id)},
                                {"token", visible_text(one.token)},
                                {"effect", static_cast<double>(one.effect)}}));
  }
  return out;
}

Json visible_tokens(const std::vector<std::string>& tokens) {
  Json out = Json::array();
  for (const std::string& token : tokens) out.push_back(visible_text(token));
  return out;
}

const char* kind_name(StoredExample::Kind kind) {
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

Json example_json(const StoredExample& example) {
  Json activations = Json::array();
  for (const float value : example.activations) activations.push_back(static_cast<double>(value));
  Json out = Json::object({{"kind", kind_name(example.kind)}});
  if (example.kind == StoredExample::Kind::kQuantile) out["quantile"] = example.quantile;
  out["activation"] = static_cast<double>(example.activation);
  out["context"] = example.context;
  out["position"] = example.position;
  out["start"] = example.start;
  out["tokens"] = visible_tokens(example.tokens);
  out["activations"] = std::move(activations);
  return out;
}

}  // namespace

Json to_json(const LatentSummary& summary) {
  return Json::object(
      {{"latent", summary.latent},
       {"density", summary.density},
       {"n_fired", summary.n_fired},
       {"mean", summary.mean},
       {"maximum", static_cast<double>(summary.maximum)},
       {"tokens", visible_tokens(summary.tokens)},
       {"explanation",
        summary.explanation.empty() ? Json() : Json(visible_text(summary.explanation))}});
}

Json to_json(const StoredFeature& feature) {
  Json out = to_json(feature.summary);
  Json histogram = Json::array();
  for (const auto& [bin, count] : feature.histogram) {
    histogram.push_back(Json::object(
        {{"from", histogram_edge(bin)}, {"to", histogram_edge(bin + 1)}, {"tokens", count}}));
  }
  out["histogram"] = std::move(histogram);
  out["promoted"] = effects_json(feature.promoted);
  out["suppressed"] = effects_json(feature.suppressed);
  Json neighbours = Json::array(), partners = Json::array(), explanations = Json::array(),
       examples = Json::array();
  for (const NeighbourLatent& one : feature.neighbours) {
    neighbours.push_back(
        Json::object({{"latent", one.latent}, {"cosine", static_cast<double>(one.cosine)}}));
  }
  for (const CoFiringLatent& one : feature.co_firing) {
    partners.push_back(Json::object({{"latent", one.latent},
                                     {"n_both", one.n_both},
                                     {"jaccard", one.jaccard},
                                     {"pmi", one.pmi}}));
  }
  for (const StoredExplanation& one : feature.explanations) {
    explanations.push_back(Json::object({{"text", visible_text(one.text)},
                                         {"method", visible_text(one.method)},
                                         {"model", visible_text(one.model)},
                                         {"scores", one.scores}}));
  }
  for (const StoredExample& one : feature.examples) examples.push_back(example_json(one));
  Json stability = Json::array();
  for (const LatentInOther& one : feature.stability) {
    stability.push_back(Json::object({{"other", visible_text(one.other)},
                                      {"latent", one.other_latent},
                                      {"cosine", one.cosine}}));
  }
  out["neighbours"] = std::move(neighbours);
  out["stability"] = std::move(stability);
  out["co_firing"] = std::move(partners);
  out["explanations"] = std::move(explanations);
  out["examples"] = std::move(examples);
  return out;
}

}  // namespace thresher::features
