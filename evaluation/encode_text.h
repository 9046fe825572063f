#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "activation_cache/cache.h"
#include "activation_cache/harvest/drop_rules.h"
#include "corpus/corpus.h"
#include "corpus/tokenizer.h"
#include "host_model/host_model.h"
#include "sae/inference_sae.h"

namespace thresher::evaluation {

/// What a token of a text activates.
struct EncodedToken {
  std::int32_t id = 0;
  std::string bytes;  // of the token; not always valid UTF-8
  std::int64_t context = 0, position = 0;
  /// Other than kKept: the SAEs never saw such positions in training, so nothing is said of them.
  activation_cache::DropReason dropped = activation_cache::DropReason::kKept;
  /// One entry an SAE: the latents that fire, (latent, activation), largest activation first.
  std::vector<std::vector<std::pair<std::int64_t, float>>> latents;
  std::vector<std::int64_t> n_active;  // one an SAE, whatever `top`
};

/// An SAE and where it looks.
struct EncodingSae {
  std::string hook_point;  // one of the cache's
  const sae::InferenceSae* sae = nullptr;
};

/// How the text of a training run was cut and which positions were kept.
struct EncodingRules {
  corpus::CorpusConfig corpus;
  activation_cache::CacheConfig cache;
  std::vector<double> norm_limits;  // one a hook point of the cache; empty: no limit
};

/// Tokens of `text` as one document, cut into contexts of corpus.context_tokens as for training
/// (the last may be shorter), BOS before it where the run puts one; for each the `top` latents of
/// every SAE. ConfigError for a text without tokens.
std::vector<EncodedToken> encode_text(std::string_view text, const EncodingRules& rules,
                                      const std::vector<EncodingSae>& saes, std::int64_t top,
                                      const corpus::Tokenizer& tokenizer,
                                      host_model::HostModel& model);

}  // namespace thresher::evaluation
