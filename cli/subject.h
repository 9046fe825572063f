#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cli/experiment.h"
#include "cli/options.h"
#include "features/subject.h"

namespace thresher::cli {

/// What commands that use features take: `path` is a run directory, the folder of an SAE in
/// SAELens' layout (ours or anybody's), or a host model alone.
struct SubjectOptions : Options {
  std::string sae;         // --sae: one SAE of a run
  std::string host_model;  // --host-model: the weights that an SAE's folder does not hold
};

/// The positional SUBJECT, --sae, --host-model, --set and the output options.
void add_subject_options(CLI::App& command, SubjectOptions& options);

enum class Needs { kModel, kSae };

struct LoadedSubject {
  features::Subject subject;
  /// The experiment of a run directory.
  std::optional<Experiment> experiment;
};

/// Loads the host model (on the run's device), its tokenizer and the SAEs: all of a run, or the one
/// that --sae names. Sets the threads of a single process. ConfigError for a path that is none of
/// the three, a run on activations of its own, a model whose weights are not those that the run
/// read, an SAE wider than the model or at a hook point that the model lacks, --host-model where
/// the run names its own, and with Needs::kSae for a model alone. Errors of the files as their
/// readers throw them.
LoadedSubject load_subject(const SubjectOptions& options, Needs needs);

}  // namespace thresher::cli
