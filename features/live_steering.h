#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "features/subject.h"

namespace thresher::features {

/// Continues prompts with and without features added: x + multiplier * strength * W_dec[latent] at
/// the SAE's hook point, at every position of prompt and text but sinks (features/intervention.h).
class LiveSteering {
 public:
  struct Feature {
    std::int64_t latent = 0;
    double strength = 0;  // in units of the decoder row, whose norm is 1
  };
  struct Question {
    std::string prompt;
    std::vector<Feature> features;
    double multiplier = 1;
    double temperature = 0;
    std::int64_t max_new_tokens = 48;
    std::uint64_t seed = 0;
  };
  struct Answer {
    std::string plain, steered;  // bytes, without the prompt; the same draws where there are any
  };

  /// Both are borrowed.
  LiveSteering(const Subject& subject, const NamedSae& sae) : subject_(&subject), sae_(&sae) {}
  /// One question at a time, whatever the number of threads. UsageError for a latent that is none,
  /// ConfigError for what generation refuses.
  Answer ask(const Question& question);

 private:
  const Subject* subject_;
  const NamedSae* sae_;
  std::mutex mutex_;
};

}  // namespace thresher::features
