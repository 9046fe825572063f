#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "activation_cache/activation_source.h"
#include "activation_cache/harvest/file_identity.h"
#include "activation_cache/harvest/harvest.h"
#include "cli/experiment.h"
#include "cli/options.h"
#include "comm/communicator.h"
#include "core/json.h"
#include "corpus/corpus.h"
#include "host_model/host_model.h"
#include "trainer/trainer.h"

namespace thresher::cli {

/// What harvest and evaluation read: the text, its tokenizer and the host model, or somebody's own
/// rows and what is known of their files. One a rank.
struct Inputs {
  std::unique_ptr<corpus::Tokenizer> tokenizer;
  std::unique_ptr<corpus::Corpus> corpus;
  std::unique_ptr<host_model::HostModel> model;
  std::unique_ptr<activation_cache::OwnActivations> rows;
  activation_cache::OwnFiles files;
};

/// Runs `work`, which must not communicate, on every rank for as long as it takes, and throws the
/// same Error everywhere if any rank failed.
void work_together(comm::Communicator& comm, std::string_view what,
                   const std::function<void()>& work);

std::unique_ptr<corpus::Tokenizer> load_experiment_tokenizer(const Experiment& experiment);

/// All stages are collective and print what they need before they start (rank 0, to stderr).
/// Settles the cache's dtype where that follows from own activations.
Inputs load_inputs(Experiment& experiment, comm::Communicator& comm);

/// The contexts of a split. ConfigError if the model cannot read them: contexts longer than it
/// knows positions for, or a token that it does not embed because the tokenizer is another model's.
corpus::PackedContexts pack_contexts(const Inputs& inputs, corpus::Split split);

/// The threads with which the model gives the bits that it gives with one thread: those in use, or
/// one after a warning. Tried on a few contexts.
int model_threads(const Experiment& experiment, Inputs& inputs,
                  const corpus::PackedContexts& contexts);

/// What can be checked of the SAEs and of the evaluation once the activations' width is known,
/// before hours of harvest: k against the dictionary size, held-out rows and the like. ConfigError
/// with the entry's place, the same on every rank.
void check_saes(const Experiment& experiment, const Inputs& inputs);
/// ConfigError, the same on every rank, unless the ranks divide the lanes.
void check_rank_count(const Experiment& experiment, const comm::Communicator& comm);

activation_cache::HarvestResult harvest_stage(const Experiment& experiment, Inputs& inputs,
                                              comm::Communicator& comm);
/// Settles the lengths of `experiment` that were left out, then trains.
trainer::TrainResult train_stage(Experiment& experiment, bool fresh, comm::Communicator& comm);
/// Measures RUN/sae/* with their baselines, writes RUN/evaluation.json (rank 0) and returns it.
Json evaluate_stage(const Experiment& experiment, const std::filesystem::path& run_dir,
                    Inputs& inputs, comm::Communicator& comm);

/// Where the flight records of a run's jobs are: beside the run directory, because --fresh renames
/// that.
std::filesystem::path flight_folder(const std::filesystem::path& run_dir);

/// Runs `work` on every rank of an experiment that writes a run directory; a failure is told in
/// RUN/status.json. `stage` is what the job does first, updated by `work` as it goes on. Before it
/// all ranks compare program, libraries and experiment (comm/agreement.h), and while it lasts they
/// watch each other (comm/rank_watch.h).
void run_job(const Experiment& experiment, const std::string& stage,
             const std::function<void(comm::Communicator&)>& work);

Json result_json(const activation_cache::HarvestResult& result);
Json result_json(const trainer::TrainResult& result);

}  // namespace thresher::cli
