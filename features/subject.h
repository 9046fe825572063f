#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "corpus/tokenizer.h"
#include "evaluation/encode_text.h"
#include "host_model/host_model.h"
#include "sae/inference_sae.h"

namespace thresher::features {

/// An SAE, and the hook point whose activations it reads.
struct NamedSae {
  std::string name;
  std::string hook_point;
  sae::InferenceSae sae;
};

/// What is worked on when features are used: a host model, its tokenizer, and the SAEs that read it
/// (none where only the model matters).
struct Subject {
  std::unique_ptr<corpus::Tokenizer> tokenizer;
  std::unique_ptr<host_model::HostModel> model;
  std::vector<NamedSae> saes;
  /// How texts are cut into contexts and which positions the SAEs never saw; those of the run. Norm
  /// limits hold at rules.cache.hook_points.
  evaluation::EncodingRules rules;

  /// The SAE of that name; with an empty name the only one. ConfigError listing those there are.
  const NamedSae& sae(std::string_view name) const;
};

}  // namespace thresher::features
