#pragma once

#include <string>
#include <vector>

#include "core/json.h"
#include "corpus/tokenizer.h"
#include "features/probing.h"

namespace thresher::features {

/// What a report says besides the figures.
struct ProbeContext {
  std::string subject, sae_name, hook_point;
  std::string pooling;  // "mean of 16 tokens"
  std::vector<const ProbeSet*> sets;
  std::vector<std::pair<std::string, std::string>> notes;  // more names and values
  std::string command;
};

/// One sentence for each test set: which baselines the best latent beats and which it does not,
/// going by whether 95 % intervals are disjoint.
std::vector<std::string> verdict_sentences(const TaskReport& task, const ProbeContext& context);

Json probe_json(const std::vector<TaskReport>& tasks, const ProbeContext& context);
/// Tables and sentences for a terminal.
std::string probe_text(const std::vector<TaskReport>& tasks, const ProbeContext& context,
                       const corpus::Tokenizer& tokenizer);
/// A page with the same and histograms of the scores of each group.
std::string probe_page(const std::vector<TaskReport>& tasks, const ProbeContext& context,
                       const corpus::Tokenizer& tokenizer);

}  // namespace thresher::features
