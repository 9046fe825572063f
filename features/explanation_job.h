#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "features/chat_client.h"
#include "features/explanation.h"
#include "features/feature_store.h"

namespace thresher::features {

struct ExplanationJob {
  std::filesystem::path store;
  /// Answers are remembered here, one file a question (its name is the question's SHA-256), so that
  /// nothing is asked twice and a stopped job goes on where it was.
  std::filesystem::path answers;
  std::vector<std::int64_t> latents;
  ExplanationPlan plan;
  int parallel = 4;  // questions on their way at once
};

/// What the store knows of a latent, as the questions need it.
LatentTexts texts_of(const StoredFeature& feature);

/// The latents that fire, ascending; with `limit` > 0 that many of them, drawn by `seed`.
std::vector<std::int64_t> firing_latents(const FeatureStore& store, std::int64_t limit,
                                         std::uint64_t seed);

/// Explains the job's latents and adds what was found to the store, also when it ends early: with
/// StoppedBySignal, or with the first error of the client. Returns one explanation a latent, in the
/// job's order; they depend on store, plan and answers alone, not on `parallel`.
std::vector<Explanation> explain_latents(const ExplanationJob& job, ChatClient& client);

/// Figures over all latents: how many were explained, the mean scores with the 95 % interval of the
/// mean over latents, what could not be read.
Json summary_of(const std::vector<Explanation>& explanations);

}  // namespace thresher::features
