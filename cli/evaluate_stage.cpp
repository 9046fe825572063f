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
#include "evaluation/row_evaluation.h"
#include "sae/thread_check.h"
#include "trainer/tensorboard_log.h"
#include "trainer/trained_sae.h"

namespace thresher::cli {
namespace {

/// RUN/evaluation.json: one object an SAE under its name, what all share repeated in each.
Json by_name(const Json& evaluation) {
  Json out = Json::object();
  for (const auto& [name, figures] : evaluation.at("candidates").as_object()) {
    Json& entry = out[name];
    entry = figures;
    for (const char* shared : {"n_tokens", "n_dropped", "n_predictions", "contexts_sha256",
                               "ce_not_measured", "rows_sha256"}) {
      const Json* value = evaluation.find(shared);
      if (value != nullptr && entry.find(shared) == nullptr) entry[shared] = *value;
    }
    if (const Json* timing = evaluation.find("timing")) {
      entry["tokens_per_second"] = timing->at("tokens_per_second").at(name);
    }
  }
  return out;
}

/// Rows to look at, after a check that they are those of the cache.
std::vector<std::int64_t> held_out_rows(const Experiment& experiment, const Inputs& inputs) {
  activation_cache::check_own_files(inputs.files, experiment.cache.dir);
  return evaluation::choose_held_out_rows(experiment.evaluation, *inputs.rows);
}

/// The threads with which the SAEs give the bits that they give with one.
int row_threads(const trainer::TrainJob& job, const activation_cache::ActivationSource& source) {
  int threads = current_threads();
  for (const auto& sae : job.saes) {
    const std::int64_t d_in = source.hook_points()[source.hook_index(sae->hook_point)].d_in;
    threads = sae::threads_with_fixed_bits(evaluation::RowBatches::kRows, d_in, sae->latents(d_in),
                                           threads);
  }
  return threads;
}

}  // namespace

Json evaluate_stage(const Experiment& experiment, const std::filesystem::path& run_dir,
                    Inputs& inputs, comm::Communicator& comm) {
  std::unique_ptr<activation_cache::ActivationSource> source;
  corpus::PackedContexts held_out;
  std::vector<std::int64_t> rows;
  trainer::TrainJob job = experiment.train_job(false);
  job.run_dir = run_dir;
  work_together(comm, "prepare the evaluation", [&] {
    source = activation_cache::open_cache_source(experiment.cache.dir);
    if (inputs.rows) {
      rows = held_out_rows(experiment, inputs);
    } else {
      held_out = pack_contexts(inputs, corpus::Split::kHeldOut);
    }
  });
  const evaluation::EvaluationContext context =
      evaluation::make_evaluation_context(experiment.cache, *source);
  const std::vector<evaluation::Candidate> candidates =
      evaluation::make_candidates(experiment.evaluation, job, *source, comm);
  if (comm.is_root()) {
    const std::string what =
        inputs.rows ? fmt::format("{} of {} held-out rows", rows.size(), inputs.rows->n_held_out())
                    : fmt::format("up to {} held-out tokens",
                                  format_count(static_cast<double>(experiment.evaluation.tokens)));
    log_info(fmt::format("evaluate: {} SAEs and {} baselines on {}", job.saes.size(),
                         candidates.size() - job.saes.size(), what));
  }
  Json evaluation;
  if (inputs.rows) {
    const ThreadsScope scope(row_threads(job, *source));
    evaluation = evaluation::evaluate_rows(candidates, *inputs.rows, rows, context, comm);
  } else {
    const ThreadsScope scope(model_threads(experiment, inputs, held_out));
    evaluation = evaluation::evaluate(experiment.evaluation, candidates, context, held_out,
                                      *inputs.tokenizer, *inputs.model, comm);
  }
  comm.agree(
      [&] {
        if (!comm.is_root()) return;
        const Json figures = by_name(evaluation);
        write_file_atomically(run_dir / "evaluation.json", figures.dump(2) + "\n");
        if (!experiment.train.tensorboard) return;
        const std::int64_t last_step = trainer::n_steps(experiment.train);
        for (const auto& [name, its] : figures.as_object()) {
          trainer::write_evaluation_events(run_dir, name, last_step, its);
        }
      },
      "write evaluation.json");
  return evaluation;
}

}  // namespace thresher::cli
