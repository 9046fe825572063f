#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "evaluation/clean_pass.h"
#include "evaluation/context_sums.h"
#include "evaluation/evaluation.h"
#include "sae/metrics.h"

namespace thresher::evaluation {

/// One evaluation: batches of contexts, one a rank and round.
class Evaluator {
 public:
  Evaluator(const EvaluationConfig& config, const std::vector<Candidate>& candidates,
            const EvaluationContext& context, const corpus::PackedContexts& held_out,
            const corpus::Tokenizer& tokenizer, host_model::HostModel& model,
            comm::Communicator& comm);
  Json run();

 private:
  /// What this rank has of its batch in the round; nothing when the batches have run out.
  struct Round {
    bool has_batch = false;
    std::int64_t n_contexts = 0;
    CleanPass clean;
    std::vector<at::Tensor> finals;  // in the order of the columns of ContextSums
  };

  void choose_contexts(const EvaluationConfig& config);
  void index_hook_points();
  void stop_if_requested(std::int64_t round);
  void run_round(std::int64_t round);
  void ablate(Round& round);
  void measure_candidate(std::size_t candidate, Round& round);
  void add_losses(Round& round);
  Json result(double seconds);
  Json figures(std::size_t candidate) const;
  Json tokens_per_second();

  const std::vector<Candidate>* candidates_;
  const EvaluationContext* context_;
  const corpus::PackedContexts* held_out_;
  const corpus::Tokenizer* tokenizer_;
  host_model::HostModel* model_;
  comm::Communicator* comm_;

  std::int64_t n_contexts_ = 0;
  std::int64_t contexts_per_batch_ = 1;
  std::int64_t n_batches_ = 0;
  std::vector<std::string> hook_names_;             // distinct, of the candidates
  std::vector<host_model::HookPoint> hook_points_;  // the same
  std::vector<std::size_t> hook_of_candidate_;      // index into the above
  std::vector<at::Tensor> training_means_;          // one a hook point, float32 [d_in]
  std::vector<sae::ReconstructionMetrics>
      metrics_;                            // one a candidate, over all ranks' finished batches
  std::vector<double> candidate_seconds_;  // of this rank
  ContextSums sums_;
};

}  // namespace thresher::evaluation
