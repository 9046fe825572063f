#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/config.h"
#include "features/labelled_texts.h"
#include "features/probing.h"

namespace thresher::features {

/// What `thresher probe` is asked. A YAML file of this shape is a plan (docs/auditing.md).
struct ProbePlan {
  std::string texts;                // labelled texts (labelled_texts.h), or
  std::vector<std::string> groups;  // LABEL=PATH
  std::vector<std::string> tests;   // NAME=PATH; without any a share of the keys is held out
  double held_out = 0.3;
  std::string text_field = "text", label_field = "label", key_field, control_field;
  std::vector<std::string> contrasts;   // LABEL:LABEL
  std::vector<std::string> word_pairs;  // files (word_pairs.h)
  /// What features/direction.h reads, or the path of a .npy or .safetensors file.
  std::vector<std::string> directions;
  std::string prefix;  // what pairs of directions are read behind
  std::string pooling = "mean";
  std::int64_t tokens = 0;  // kept tokens of a document; 0: all
  std::vector<std::string> sparse = {"1", "2", "5", "16"};
  std::int64_t n_best = 5, n_random = 199, n_shuffles = 99, n_resamples = 1000;
  std::int64_t seed = 0;

  void declare(FieldVisitor& fields);

  LabelFields fields() const { return {text_field, label_field, key_field, control_field}; }
  /// Numbers and contrasts as probe() takes them, without directions. UsageError for a contrast or
  /// a number that is none.
  ProbeOptions options() const;
};

/// ConfigError with file, line and column for keys that are unknown or ill-typed.
ProbePlan read_probe_plan(const std::string& path);

/// "fr=texts" as its two parts. UsageError, naming `option` and what it takes, without both.
std::pair<std::string, std::string> split_at(const std::string& option, const std::string& text,
                                             char separator, const std::string& form);

/// The plan's directions at the hook point of `sae`, named as they were given; errors as of
/// make_direction.
std::vector<ProbeDirection> probe_directions(const ProbePlan& plan, const Subject& subject,
                                             const NamedSae& sae);

}  // namespace thresher::features
