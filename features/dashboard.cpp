#include "features/dashboard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/files.h"
#include "core/version.h"
#include "core/visible_text.h"
#include "evaluation/html.h"
#include "features/dashboard_assets.h"

namespace thresher::features {
namespace {

constexpr std::int64_t kChunkLatents = 32;
constexpr std::size_t kLongestToken = 200;  // characters
constexpr std::size_t kShownTokens = 4;     // of a latent in the list
constexpr int kDigits = 4;

/// Four digits are more than anybody sees, and half the bytes.
double rounded(double value) {
  if (value == 0 || !std::isfinite(value)) return 0;
  const double scale =
      std::pow(10.0, kDigits - 1 - static_cast<int>(std::floor(std::log10(std::fabs(value)))));
  return std::round(value * scale) / scale;
}

std::string shown_token(const std::string& bytes) {
  const std::string text = visible_text(std::string_view(bytes).substr(0, 4 * kLongestToken));
  std::size_t end = 0, characters = 0;
  while (end < text.size() && characters < kLongestToken) {
    ++end;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80) ++end;
    ++characters;
  }
  if (end == text.size() && bytes.size() <= 4 * kLongestToken) return text;
  return fmt::format("{}… ({} bytes)", text.substr(0, end), bytes.size());
}

using Sink = std::function<void(const std::string& piece)>;

class DashboardWriter {
 public:
  DashboardWriter(const FeatureStore& store, const DashboardOptions& options, Sink put)
      : store_(store), options_(options), put_(std::move(put)) {}

  void write() {
    begin_page();
    const std::int64_t n = store_.n_latents();
    for (std::int64_t first = 0; first < n; first += kChunkLatents) {
      Json chunk = Json::array();
      for (std::int64_t i = first; i < std::min(first + kChunkLatents, n); ++i) {
        chunk.push_back(feature(store_.feature(i)));
      }
      put_data(fmt::format("c{}", first / kChunkLatents), chunk);
    }
    Json contexts = Json::array();
    for (const auto& ids : contexts_) contexts.push_back(ids);
    put_data("contexts", contexts);
    put_data("tokens", Json::array_of(tokens_));
    put_data("index", index());
    put_(fmt::format("<script>{}</script>\n</body>\n</html>\n", kDashboardScript));
  }

 private:
  void put_data(const std::string& id, const Json& value) {
    put_(fmt::format("<script type=\"application/json\" id=\"{}\">{}</script>\n", id,
                     evaluation::html_json(value)));
  }

  void begin_page() {
    const std::string policy = fmt::format(
        "default-src 'none'; script-src {}; style-src {}; base-uri 'none'; form-action 'none'",
        evaluation::csp_hash(kDashboardScript), evaluation::csp_hash(kDashboardStyle));
    const Json* name = store_.facts().find("sae");
    const std::string title =
        name != nullptr && name->is_string() ? name->as_string() : "feature store";
    put_("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    put_(fmt::format("<meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\n", policy));
    put_("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    put_(fmt::format("<title>{} · latents</title>\n<style>{}</style>\n</head>\n<body>\n",
                     evaluation::html_text(title), kDashboardStyle));
    put_(kDashboardBody);
  }

  std::int64_t token(std::int32_t id, const std::string& bytes) {
    const auto [place, is_new] =
        token_places_.emplace(id, static_cast<std::int64_t>(tokens_.size()));
    if (is_new) tokens_.push_back(shown_token(bytes));
    return place->second;
  }

  /// The place of a context in the page: its tokens are there once, whoever shows a part of it.
  std::int64_t context(std::int64_t number) {
    const auto [place, is_new] =
        context_places_.emplace(number, static_cast<std::int64_t>(contexts_.size()));
    if (is_new) {
      Json ids = Json::array();
      for (const std::int32_t id : store_.context(number)) {
        ids.push_back(token(id, store_.token(id)));
      }
      contexts_.push_back(std::move(ids));
    }
    return place->second;
  }

  Json effects(const std::vector<TokenEffect>& list) {
    Json out = Json::array();
    for (const TokenEffect& one : list) {
      out.push_back(Json::array({token(one.token_id, one.token), rounded(one.effect)}));
    }
    return out;
  }

  Json example(const StoredExample& one) {
    Json activations = Json::array();
    for (std::size_t i = 0; i < one.activations.size(); ++i) {
      if (one.activations[i] == 0) continue;
      activations.push_back(Json::array(
          {static_cast<std::int64_t>(i), rounded(static_cast<double>(one.activations[i]))}));
    }
    const std::int64_t group = one.kind == StoredExample::Kind::kTop ? -1 : one.quantile;
    return Json::array({group, rounded(static_cast<double>(one.activation)), context(one.context),
                        one.context, one.position, one.start,
                        static_cast<std::int64_t>(one.tokens.size()), activations});
  }

  Json examples(const std::vector<StoredExample>& list) {
    Json out = Json::array();
    std::map<std::int64_t, std::int64_t> shown;  // by group
    for (const StoredExample& one : list) {
      if (one.kind == StoredExample::Kind::kSilent) continue;
      const bool is_top = one.kind == StoredExample::Kind::kTop;
      std::int64_t& count = shown[is_top ? -1 : one.quantile];
      if (count >= (is_top ? options_.n_top : options_.n_per_quantile)) continue;
      ++count;
      out.push_back(example(one));
    }
    return out;
  }

  Json feature(const StoredFeature& feature) {
    add_to_index(feature.summary);
    Json histogram = Json::array(), neighbours = Json::array(), partners = Json::array(),
         explanations = Json::array(), stability = Json::array();
    for (const auto& [bin, count] : feature.histogram) {
      histogram.push_back(Json::array({bin, count}));
    }
    for (const NeighbourLatent& one : feature.neighbours) {
      neighbours.push_back(Json::array({one.latent, rounded(static_cast<double>(one.cosine))}));
    }
    for (const CoFiringLatent& one : feature.co_firing) {
      partners.push_back(
          Json::array({one.latent, one.n_both, rounded(one.jaccard), rounded(one.pmi)}));
    }
    for (const StoredExplanation& one : feature.explanations) {
      explanations.push_back(
          Json::array({visible_text(one.text), visible_text(one.method), visible_text(one.model)}));
    }
    for (const LatentInOther& one : feature.stability) {
      stability.push_back(
          Json::array({visible_text(one.other), one.other_latent, rounded(one.cosine)}));
    }
    return Json::object({{"h", histogram},
                         {"p", effects(feature.promoted)},
                         {"s", effects(feature.suppressed)},
                         {"n", neighbours},
                         {"c", partners},
                         {"x", explanations},
                         {"r", stability},
                         {"e", examples(feature.examples)}});
  }

  void add_to_index(const LatentSummary& summary) {
    density_.push_back(rounded(summary.density));
    mean_.push_back(rounded(summary.mean));
    maximum_.push_back(rounded(static_cast<double>(summary.maximum)));
    n_fired_.push_back(summary.n_fired);
    Json labels = Json::array();
    for (std::size_t i = 0; i < std::min(summary.tokens.size(), kShownTokens); ++i) {
      labels.push_back(shown_token(summary.tokens[i]));
    }
    labels_.push_back(std::move(labels));
    if (!summary.explanation.empty()) {
      explanations_[std::to_string(summary.latent)] = visible_text(summary.explanation);
    }
  }

  /// What people should know of where the figures are from.
  Json facts() const {
    Json out = Json::object();
    for (const char* name : {"sae", "hook_point", "architecture", "n_tokens", "n_contexts",
                             "context_tokens", "n_co_firing_tokens", "sae_sha256"}) {
      const Json* value = store_.facts().find(name);
      if (value == nullptr) continue;
      out[name] = value->is_string() ? Json(visible_text(value->as_string())) : *value;
    }
    out["program"] = fmt::format("Thresher {}", kVersion);
    return out;
  }

  Json index() const {
    return Json::object({{"facts", facts()},
                         {"chunk", kChunkLatents},
                         {"density", Json::array_of(density_)},
                         {"mean", Json::array_of(mean_)},
                         {"maximum", Json::array_of(maximum_)},
                         {"fired", Json::array_of(n_fired_)},
                         {"labels", Json::array(labels_)},
                         {"explanations", explanations_}});
  }

  const FeatureStore& store_;
  DashboardOptions options_;
  Sink put_;
  std::unordered_map<std::int32_t, std::int64_t> token_places_;
  std::unordered_map<std::int64_t, std::int64_t> context_places_;
  std::vector<std::string> tokens_;
  std::vector<Json> contexts_;
  std::vector<double> density_, mean_, maximum_;
  std::vector<std::int64_t> n_fired_;
  std::vector<Json> labels_;
  Json explanations_ = Json::object();
};

}  // namespace

void write_dashboard(const FeatureStore& store, const DashboardOptions& options,
                     const std::filesystem::path& path) {
  write_file_atomically(path, [&](const FileDescriptor& file) {
    DashboardWriter(store, options, [&](const std::string& piece) {
      write_all(file, std::as_bytes(std::span(piece)), path);
    }).write();
  });
}

std::string dashboard_html(const FeatureStore& store, const DashboardOptions& options) {
  std::string out;
  DashboardWriter(store, options, [&](const std::string& piece) { out += piece; }).write();
  return out;
}

}  // namespace thresher::features
