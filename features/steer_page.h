#pragma once

#include <string>

#include "features/neuronpedia.h"

namespace thresher::features {

/// The page at /steer: a prompt, latents found by words or number with their strengths, and the
/// model's text with and without them, side by side.
struct SteerPage {
  std::string html;
  std::string policy;  // Content-Security-Policy: its own script and style, requests to itself
};
SteerPage make_steer_page(const NeuronpediaNames& names, bool has_model);

}  // namespace thresher::features
