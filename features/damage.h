#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "corpus/corpus.h"
#include "evaluation/evaluation.h"
#include "features/diagnosis.h"
#include "features/subject.h"

namespace thresher::features {

/// What an SAE's reconstruction does to the tokens of a group.
struct GroupDamage {
  std::int64_t key = 0;  // token id, position in the document, or number of the document
  std::int64_t n_tokens = 0, n_predictions = 0;
  double loss = 0;  // mean change of next-token loss at these tokens, nats
  double fvu = 0;   // sum |x - recon|^2 / sum |x - training mean|^2 over these tokens
};

struct Damage {
  std::int64_t n_tokens = 0, n_predictions = 0;
  double loss = 0, fvu = 0, kl = 0;                             // over all; kl in nats
  std::vector<GroupDamage> by_token, by_position, by_document;  // ascending keys
  /// KL when noise of the same norm as the error stands in its place, one a draw.
  std::vector<double> random_kl;
};

struct DamageRequest {
  std::int64_t tokens = 8192;  // of held-out text
  std::int64_t draws = 3;      // of random errors
  std::uint64_t seed = 42;
};

/// Splices the SAE into held-out contexts, batch by batch, and sums per group in float64. Positions
/// that the cache leaves out stay as they are and are not counted. ConfigError without a held-out
/// position.
Damage measure_damage(const DamageRequest& request, const NamedSae& sae,
                      const evaluation::EvaluationContext& context,
                      const corpus::PackedContexts& held_out, const corpus::Tokenizer& tokenizer,
                      host_model::HostModel& model);

/// Groups in which the change of loss, summed over tokens, is largest; groups of fewer than
/// `least_predictions` predictions are left out.
std::vector<GroupDamage> most_hurt(const std::vector<GroupDamage>& groups, std::size_t top,
                                   std::int64_t least_predictions);

/// For each latent the largest cosine of its decoder row with one of the other SAE's.
struct Stability {
  std::vector<double> best_cosine;        // one a latent
  std::vector<std::int64_t> best_latent;  // of the other SAE
  double mean = 0;
  double above = 0;  // part of latents above kStable
};
inline constexpr double kStable = 0.7;
/// ConfigError for SAEs of different widths of activation.
Stability decoder_stability(const NamedSae& sae, const NamedSae& other);

/// Findings (features/diagnosis.h) on both: an error that hurts more than a random one of its size
/// (Gurnee 2024 found errors of SAEs to), and latents that another seed does not find again.
std::optional<Finding> error_finding(const std::string& sae, const Damage& damage);
std::optional<Finding> stability_finding(const std::string& sae, const std::string& other,
                                         const Stability& stability);

/// Names of the keys of groups.
struct DamageNames {
  std::function<std::string(std::int64_t)> token, document;
};
Json damage_json(const Damage& damage, std::size_t top, const DamageNames& names);
std::string damage_text(const Damage& damage, std::size_t top, const DamageNames& names);
/// With each latent's best cosine and partner.
Json stability_json(const std::string& other, const Stability& stability);

}  // namespace thresher::features
