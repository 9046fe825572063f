#pragma once

#include <string>

#include "evaluation/run_record.h"

namespace thresher::evaluation {

/// One run as one HTML file (evaluation/page.h): metrics beside baselines, curves of training,
/// densities of the latents, speed, the resolved configuration, and where it all comes from. Parts
/// that the run does not have yet are missing and said to be.
std::string report_page(const RunRecord& run);

}  // namespace thresher::evaluation
