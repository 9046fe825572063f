#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/progress.h"
#include "trainer/background_checkpoints.h"
#include "trainer/bad_step.h"
#include "trainer/batch_rows.h"
#include "trainer/run_directory.h"
#include "trainer/stragglers.h"
#include "trainer/trained_sae.h"
#include "trainer/trainer.h"

namespace thresher::trainer {

/// A figure of an SAE's steps: how many were left out so far; absent while none was.
inline constexpr const char* kSkippedSteps = "skipped_steps";

/// The steps of one call of `train`: from a resumed position to the end, or to a stop.
class TrainingLoop {
 public:
  /// `directory` is nullptr on other ranks than 0. Everything is borrowed.
  TrainingLoop(const TrainJob& job, activation_cache::ActivationSource& source,
               comm::Communicator& comm, RunDirectory* directory, std::vector<TrainedSae>& saes,
               Json identity);

  /// Takes the steps [first_step, n_steps); `is_saved` says that a checkpoint of first_step is on
  /// disk. Leaves a checkpoint of the last step. Throws StoppedBySignal after saving when any rank
  /// was asked to stop. Collective.
  void run(std::int64_t first_step, bool is_saved);
  std::int64_t step() const { return step_; }
  std::int64_t tokens() const { return step_ * job_->config.batch_tokens; }

 private:
  /// What the ranks have agreed on before a step.
  struct Agreed {
    bool is_stop_requested = false;
    bool is_checkpoint_due = false;
    bool is_writing = false;  // rank 0 still writes the checkpoint before
  };
  /// Throws on every rank when one could not read, or when a checkpoint could not be written.
  Agreed agree(const std::exception_ptr& read_error);
  void take_step();
  /// A step of one SAE that must not be taken: throws unless it may be left out.
  void leave_out(TrainedSae& trained, const BadStep& bad, const std::vector<at::Tensor>& inputs);
  void write_metrics();
  void write_timing(bool is_last);
  /// Whether the step after `step` completed ones gets its line in metrics.jsonl.
  bool is_logged(std::int64_t step) const;
  /// Rank 0 decides, by tokens or by its clock.
  bool is_checkpoint_due() const;
  CheckpointState state() const;
  /// On the training thread or another one of rank 0.
  void write(const CheckpointContent& content, bool is_stop);
  void checkpoint(bool is_writing);
  void save_now(bool is_stop);
  std::string note() const;

  const TrainJob* job_;
  comm::Communicator* comm_;
  RunDirectory* directory_;
  std::vector<TrainedSae>* saes_;
  Json identity_;
  std::int64_t steps_, step_ = 0, saved_step_ = -1;
  BatchRows rows_;
  std::chrono::steady_clock::time_point timed_at_;
  std::chrono::steady_clock::time_point saved_at_;
  std::optional<BackgroundCheckpoints> background_;  // rank 0 only
  Stragglers stragglers_;
  Json rank_seconds_;  // of the last window of steps, one a rank
  double timed_cpu_seconds_ = 0;
  std::int64_t timed_step_ = 0;
};

}  // namespace thresher::trainer
