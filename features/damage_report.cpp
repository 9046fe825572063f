#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/visible_text.h"
#include "evaluation/text_table.h"
#include "features/damage.h"

namespace thresher::features {
namespace {

/// Fewer predictions than this say little of a token; documents and positions have more.
constexpr std::int64_t kLeastPredictions = 5;

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

using Name = std::function<std::string(std::int64_t)>;

Json groups_json(const std::vector<GroupDamage>& groups, const Name& name) {
  Json out = Json::array();
  for (const GroupDamage& one : groups) {
    Json entry = Json::object({{"key", one.key}});
    if (name) entry["name"] = visible_text(name(one.key));
    entry["n_tokens"] = one.n_tokens;
    entry["n_predictions"] = one.n_predictions;
    entry["loss"] = one.loss;
    entry["fvu"] = one.fvu;
    out.push_back(std::move(entry));
  }
  return out;
}

std::string groups_text(const char* what, const std::vector<GroupDamage>& groups,
                        const Name& name) {
  std::vector<std::vector<std::string>> lines = {{what, "predictions", "change of loss", "fvu"}};
  for (const GroupDamage& one : groups) {
    lines.push_back({name ? name(one.key) : std::to_string(one.key),
                     std::to_string(one.n_predictions), fmt::format("{:.3f}", one.loss),
                     fmt::format("{:.3f}", one.fvu)});
  }
  return evaluation::text_table(std::move(lines)) + "\n";
}

}  // namespace

std::optional<Finding> error_finding(const std::string& sae, const Damage& damage) {
  if (damage.random_kl.empty()) return std::nullopt;
  const double random = mean_of(damage.random_kl);
  if (!(random > 0) || !(damage.kl / random > thresholds::kErrorOverRandom)) return std::nullopt;
  return Finding{Finding::Severity::kWarning,
                 "error_hurts",
                 sae,
                 damage.kl / random,
                 thresholds::kErrorOverRandom,
                 fmt::format("the SAE's error costs {:.3g} nats of KL, random errors of the same "
                             "norm {:.3g}: {:.3g} times as much",
                             damage.kl, random, damage.kl / random),
                 "the error is not noise: what is left out matters to the model; a larger k, more "
                 "latents or more text"};
}

std::optional<Finding> stability_finding(const std::string& sae, const std::string& other,
                                         const Stability& stability) {
  if (!(stability.above < thresholds::kStablePart)) return std::nullopt;
  return Finding{Finding::Severity::kWarning,
                 "unstable_latents",
                 sae,
                 stability.above,
                 thresholds::kStablePart,
                 fmt::format("{:.3g} % of latents have a decoder of cosine above {} in {}",
                             100 * stability.above, kStable, visible_text(other)),
                 "read a single latent with care: another seed would not have found it"};
}

Json damage_json(const Damage& damage, std::size_t top, const DamageNames& names) {
  return Json::object(
      {{"n_tokens", damage.n_tokens},
       {"n_predictions", damage.n_predictions},
       {"loss", damage.loss},
       {"fvu", damage.fvu},
       {"kl", damage.kl},
       {"random_kl", Json::array_of(damage.random_kl)},
       {"by_token", groups_json(most_hurt(damage.by_token, top, kLeastPredictions), names.token)},
       {"by_position", groups_json(damage.by_position, {})},
       {"by_document", groups_json(most_hurt(damage.by_document, top, 1), names.document)}});
}

std::string damage_text(const Damage& damage, std::size_t top, const DamageNames& names) {
  std::string out =
      fmt::format("on {} held-out tokens: change of loss {:.4f} nats, fvu {:.4f}, KL {:.4f}",
                  damage.n_tokens, damage.loss, damage.fvu, damage.kl);
  if (!damage.random_kl.empty()) {
    const auto [low, high] = std::minmax_element(damage.random_kl.begin(), damage.random_kl.end());
    out += fmt::format(" (random errors of the same norm: {:.4f}, {:.4f} to {:.4f} over {} draws)",
                       mean_of(damage.random_kl), *low, *high, damage.random_kl.size());
  }
  out += "\n\nwhere it hurts, by what it costs in all:\n\n";
  out += groups_text("token", most_hurt(damage.by_token, top, kLeastPredictions), names.token);
  out += groups_text("position", most_hurt(damage.by_position, top, kLeastPredictions), {});
  return out + groups_text("document", most_hurt(damage.by_document, top, 1), names.document);
}

Json stability_json(const std::string& other, const Stability& stability) {
  return Json::object({{"against", other},
                       {"mean_best_cosine", stability.mean},
                       {"part_above", stability.above},
                       {"cosine", kStable},
                       {"best_cosine", Json::array_of(stability.best_cosine)},
                       {"best_latent", Json::array_of(stability.best_latent)}});
}

}  // namespace thresher::features
