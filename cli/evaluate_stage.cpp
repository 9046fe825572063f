#include <fmt/format.h>

#include "activation_cache/cache.h"
#include "cli/ranks.h"
#include "cli/stages.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/progress.h"
#include "evaluation/baselines.h"
#include "evaluation/evaluation.h"

namespace thresher::cli {
namespace {

/// RUN/evaluation.json: one object an SAE under its name, what all share repeated in each.
Json by_name(const Json& evaluation) {
  Json out = Json::object();
  for (const auto& [name, figures] : evaluation.at("candidates").as_object()) {
    Json& entry = out[name];
    entry = figures;
    for (const char* shared : {"n_tokens", "n_dropped", "n_predictions", "contexts_sha256"}) {
      if (entry.find(shared) == nullptr) entry[shared] = evaluation.at(shared);
    }
    if (const Json* timing = evaluation.find("timing")) {
      entry["tokens_per_second"] = timing->at("tokens_per_second").at(name);
    }
  }
  return out;
}

}  // namespace

Json evaluate_stage(const Experiment& experiment, const std::filesystem::path& run_dir,
                    Inputs& inputs, comm::Communicator& comm) {
  std::unique_ptr<activation_cache::ActivationSource> source;
  corpus::PackedContexts held_out;
  trainer::TrainJob job = experiment.train_job(false);
  job.run_dir = run_dir;
  work_together(comm, "prepare the evaluation", [&] {
    source = activation_cache::open_cache_source(experiment.cache.dir);
    held_out = pack_contexts(inputs, corpus::Split::kHeldOut);
  });
  const evaluation::EvaluationContext context =
      evaluation::make_evaluation_context(experiment.cache, *source);
  const std::vector<evaluation::Candidate> candidates =
      evaluation::make_candidates(experiment.evaluation, job, *source, comm);
  if (comm.is_root()) {
    log_info(fmt::format("evaluate: {} SAEs and {} baselines on up to {} held-out tokens",
                         job.saes.size(), candidates.size() - job.saes.size(),
                         format_count(static_cast<double>(experiment.evaluation.tokens))));
  }
  const ThreadsScope scope(model_threads(experiment, inputs, held_out));
  Json evaluation = evaluation::evaluate(experiment.evaluation, candidates, context, held_out,
                                         *inputs.tokenizer, *inputs.model, comm);
  comm.agree(
      [&] {
        if (!comm.is_root()) return;
        write_file_atomically(run_dir / "evaluation.json", by_name(evaluation).dump(2) + "\n");
      },
      "write evaluation.json");
  return evaluation;
}

}  // namespace thresher::cli
