#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"
#include "evaluation/run_record.h"

namespace thresher::features {

/// Something that a knowing colleague would say about a run.
struct Finding {
  enum class Severity { kSevere, kWarning, kNote } severity = Severity::kNote;
  std::string name;  // "dead_latents"
  std::string sae;   // which; empty for the whole run
  double figure = 0, threshold = 0;
  std::string text;    // with the figure: "31 % of latents are dead"
  std::string advice;  // what to try
};
const char* severity_name(Finding::Severity severity);

/// From when on something is said. Judgements, in one place; docs/diagnose.md lists them.
namespace thresholds {
inline constexpr double kFalling = 0.02;  // relative, last tenth of training against the one before
inline constexpr double kDead = 0.1, kManyDead = 0.3;  // part of latents
inline constexpr double kDense = 0.05;                 // part of latents that fire on > 10 %
inline constexpr double kOutlierNorm = 10;             // largest norm over the median
inline constexpr double kSeverity = 0.5;         // norm of the mean over that of the deviation
inline constexpr double kSteps = 1000;           // optimiser steps
inline constexpr double kTokensPerLatent = 200;  // distinct training tokens
inline constexpr double kEpochs = 5;             // passes over the cache
inline constexpr double kFloor = 0.2;            // last learning rate over the largest
inline constexpr double kGap = 1.25;             // held-out fvu over training fvu
inline constexpr double kRecovered = 0.8;        // ce_recovered_mean
inline constexpr double kErrorOverRandom = 1.5;  // KL of the error over that of a random one
inline constexpr double kStablePart = 0.5;       // of latents that another seed finds again
}  // namespace thresholds

/// What `run` says, judged, most severe first; equally severe ones in the order in which training
/// would be looked at. `cache` is cache_info of the run's cache, null if it is gone: then nothing
/// is said of norms and epochs. Everything in them is read as hostile input; what is missing is not
/// judged.
std::vector<Finding> diagnose(const evaluation::RunRecord& run, const Json& cache);

Json findings_json(const std::vector<Finding>& findings);
std::string findings_text(const std::vector<Finding>& findings);

}  // namespace thresher::features
