#include "features/feature_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/visible_text.h"
#include "evaluation/text_table.h"

namespace thresher::features {
namespace {

constexpr std::size_t kShownTokens = 6;
constexpr std::size_t kLongestToken = 40;  // characters of a token in a list
constexpr double kMarkedFraction = 0.3;    // of the example's largest activation
constexpr std::size_t kLongestContext = 2000;

std::string shortened(const std::string& text, std::size_t limit) {
  if (display_width(text) <= limit) return text;
  std::string out;
  std::size_t width = 0;
  for (std::size_t i = 0; i < text.size() && (width < limit || (text[i] & 0xC0) == 0x80); ++i) {
    if ((text[i] & 0xC0) != 0x80) ++width;
    out += text[i];
  }
  out += "…";
  return out;
}

std::string token_list(const std::vector<std::string>& tokens) {
  std::string out;
  for (std::size_t i = 0; i < std::min(tokens.size(), kShownTokens); ++i) {
    out += fmt::format("{}'{}'", i == 0 ? "" : " ",
                       shortened(visible_text(tokens[i].substr(0, 400)), kLongestToken));
  }
  return out;
}

std::string shown_token(const std::string& token) {
  return fmt::format("'{}'", shortened(visible_text(token.substr(0, 400)), kLongestToken));
}

std::string example_text(const StoredExample& example) {
  const std::vector<bool> marked = activating_tokens(example, kMarkedFraction);
  std::string text;
  for (std::size_t i = 0; i < example.tokens.size(); ++i) {
    if (marked[i] && (i == 0 || !marked[i - 1])) text += "[[";
    text += example.tokens[i].substr(0, kLongestContext);
    if (marked[i] && (i + 1 == marked.size() || !marked[i + 1])) text += "]]";
  }
  return shortened(visible_text(text), kLongestContext);
}

std::string heading(const StoredExample& example) {
  switch (example.kind) {
    case StoredExample::Kind::kTop:
      return "strongest contexts";
    case StoredExample::Kind::kQuantile:
      return fmt::format("contexts drawn at random, group {}", example.quantile);
    case StoredExample::Kind::kSilent:
      break;
  }
  return "contexts in which it does not fire";
}

std::string figures_text(const StoredFeature& feature) {
  std::string out;
  std::vector<std::vector<std::string>> tokens = {{"promotes", "logit", "suppresses", "logit"}};
  for (std::size_t i = 0; i < std::max(feature.promoted.size(), feature.suppressed.size()); ++i) {
    std::vector<std::string> line(4);
    if (i < feature.promoted.size()) {
      line[0] = shown_token(feature.promoted[i].token);
      line[1] = fmt::format("{:+.3f}", feature.promoted[i].effect);
    }
    if (i < feature.suppressed.size()) {
      line[2] = shown_token(feature.suppressed[i].token);
      line[3] = fmt::format("{:+.3f}", feature.suppressed[i].effect);
    }
    tokens.push_back(std::move(line));
  }
  if (tokens.size() > 1) {
    out = fmt::format("\n{}", evaluation::text_table(std::move(tokens), 1));
  }
  std::vector<std::vector<std::string>> others = {
      {"nearest direction", "cosine", "fires with", "jaccard", "pmi", "tokens"}};
  for (std::size_t i = 0; i < std::max(feature.neighbours.size(), feature.co_firing.size()); ++i) {
    std::vector<std::string> line(6);
    if (i < feature.neighbours.size()) {
      line[0] = fmt::format("{}", feature.neighbours[i].latent);
      line[1] = fmt::format("{:.3f}", feature.neighbours[i].cosine);
    }
    if (i < feature.co_firing.size()) {
      const CoFiringLatent& one = feature.co_firing[i];
      line[2] = fmt::format("{}", one.latent);
      line[3] = fmt::format("{:.3f}", one.jaccard);
      line[4] = fmt::format("{:.2f}", one.pmi);
      line[5] = fmt::format("{}", one.n_both);
    }
    others.push_back(std::move(line));
  }
  return fmt::format("{}\n{}", out, evaluation::text_table(std::move(others), 1));
}

}  // namespace

std::string summaries_text(const std::vector<LatentSummary>& summaries) {
  std::vector<std::vector<std::string>> lines = {
      {"latent", "density", "maximum", "fires on", "explanation"}};
  for (const LatentSummary& one : summaries) {
    lines.push_back({fmt::format("{}", one.latent), fmt::format("{:.3g}", one.density),
                     fmt::format("{:.3g}", one.maximum), token_list(one.tokens),
                     shortened(one.explanation, 100)});
  }
  return evaluation::text_table(std::move(lines), 5);
}

std::string feature_text(const StoredFeature& feature) {
  const LatentSummary& summary = feature.summary;
  std::string out =
      fmt::format("latent {}: fires on {} tokens ({:.3g} of all), mean {:.4g}, maximum {:.4g}\n",
                  summary.latent, summary.n_fired, summary.density, summary.mean, summary.maximum);
  for (const StoredExplanation& one : feature.explanations) {
    out += fmt::format("  {} ({}, {})\n", visible_text(one.text), visible_text(one.method),
                       visible_text(one.model));
  }
  for (const LatentInOther& one : feature.stability) {
    out += fmt::format("  found again in {}: latent {}, cosine {:.3f}\n", visible_text(one.other),
                       one.other_latent, one.cosine);
  }
  out += figures_text(feature);
  std::string last;
  for (const StoredExample& example : feature.examples) {
    const std::string title = heading(example);
    if (title != last) out += fmt::format("\n{}\n", title);
    last = title;
    out += fmt::format("{:>9.4g}  {}\n", example.activation, example_text(example));
  }
  return out;
}

}  // namespace thresher::features
