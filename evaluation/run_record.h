#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "core/config.h"
#include "core/json.h"
#include "evaluation/run_curves.h"

namespace thresher::evaluation {

/// One SAE as a run directory shows it.
struct SaeRecord {
  std::string name;
  Json config;       // its fields in config.resolved.yaml; null if it is not there
  SaeCurves curves;  // of training; may be empty
  Json evaluation;   // its object in evaluation.json; null if it was not evaluated
  std::vector<std::pair<double, double>> held_out_fvu;  // (tokens, fvu) of curve.json
};

/// What a run directory says, whoever wrote it: read as hostile input, nothing in it is ever used
/// as a path. Parts that are not there are null or empty.
struct RunRecord {
  std::filesystem::path path;
  std::string name;  // the folder's
  Json config;       // config.resolved.yaml with typed scalars
  Json status;       // status.json
  Json identity;     // of the newest checkpoint: what the numbers depend on
  std::vector<SaeRecord> saes;
  std::vector<Json> events;  // lines of timing.jsonl that are events (start, stages, ...)
  std::vector<std::pair<double, double>> speed;  // (tokens, tokens/s) of timing.jsonl

  bool is_evaluated() const;
};

/// ConfigError where there is no run; DataError with the file (and line) for a damaged part.
RunRecord read_run(const std::filesystem::path& run_dir);

/// The identity in the newest checkpoint of a run (trainer/identity.h); null without a checkpoint.
Json newest_identity(const std::filesystem::path& run_dir);

/// A parsed config as JSON: unquoted scalars become numbers and booleans where they are.
Json config_to_json(const ConfigNode& node);

/// Every scalar of a config under its dotted name, lists of scalars as one value:
/// {"train.learning_rate": 0.001, "corpus.paths": ["a", "b"]}. Lists of objects are entered by
/// number.
std::vector<std::pair<std::string, Json>> flatten(const Json& config);

/// A value of a config as a person writes it: strings without quotes, lists with commas.
std::string plain_value(const Json& value);

}  // namespace thresher::evaluation
