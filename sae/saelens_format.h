#pragma once

#include <string_view>

#include "core/json.h"
#include "sae/inference_sae.h"

namespace thresher::sae {

/// cfg.json of an SAE, with the keys and the order of sae-lens.
Json saelens_config(const InferenceSae& sae);

/// What a cfg.json says that this program must know. `where` (the file) starts each message.
struct SaelensConfig {
  std::string architecture;
  std::int64_t d_in = 0;
  std::int64_t d_sae = 0;
  std::int64_t k = 0;  // topk only
  bool apply_b_dec_to_input = true;
  bool rescale_acts_by_decoder_norm = false;
  Json metadata = Json::object();
};
SaelensConfig parse_saelens_config(const Json& json, std::string_view where);

}  // namespace thresher::sae
