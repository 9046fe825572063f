#pragma once

#include "activation_cache/cache_format.h"

namespace thresher::fuzz {

/// The cache to which the commit log and manifest among the seeds belong: 16 contexts of 16 tokens
/// in two units, one hook point of 12 dimensions.
inline activation_cache::CacheIdentity sample_identity() {
  activation_cache::CacheIdentity identity;
  identity.host_family = "llama";
  identity.host_fingerprint = "host";
  identity.tokenizer_fingerprint = "tokenizer";
  identity.corpus = Json::object({{"fingerprint", "corpus"}});
  identity.hook_points = {{"blocks.0.hook_resid_post", 12}};
  identity.context_tokens = 16;
  identity.n_contexts = 16;
  identity.unit_tokens = 128;
  identity.drop_first_positions = 1;
  identity.seed = 7;
  identity.forward_contexts = 4;
  identity.block_rows = 7;
  return identity;
}

}  // namespace thresher::fuzz
