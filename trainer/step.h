#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "sae/training_sae.h"
#include "trainer/parameter_update.h"
#include "trainer/train_config.h"
#include "trainer/weight_average.h"

namespace thresher::trainer {

/// The training step of one SAE: the same function in `train`, in the tests and in `bench step`, on
/// every device. What differs between devices is the SAE's (TrainingSae) and the update's
/// (ParameterUpdate).
class Step {
 public:
  /// `config` is this SAE's own (config_of).
  Step(sae::TrainingSae& sae, const TrainConfig& config);
  /// `lanes[i]` [rows, d_in]: transformed inputs of the rank's i-th lane. Collective. Returns the
  /// step's global figures with learning_rate and gradient_norm (before clipping) added and, if
  /// `wants_norms`, which costs a pass over the weights, parameter_norm (before the update) and
  /// update_norm (what Adam changed, before the variant restores its constraints); norms are over
  /// all parameters of the SAE, accumulated in float64 along a fixed tree. BadStep
  /// on every rank when the gradient norm is not finite (as it is when an input or a loss is not);
  /// no weight, moment or counter has changed then (trainer/bad_step.h).
  Json run(const sae::StepInfo& info, const std::vector<at::Tensor>& lanes,
           comm::Communicator& comm, bool wants_norms = false);
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;
  /// In the order of the SAE's parameters.
  std::vector<Moments>& moments() { return moments_; }
  const WeightAverage& average() const { return average_; }

 private:
  void compute_gradients(const sae::StepInfo& info, const std::vector<at::Tensor>& lanes,
                         comm::Communicator& comm);
  void forget_replaced_latents();

  sae::TrainingSae* sae_;
  TrainConfig config_;
  std::vector<Moments> moments_;  // update_ refers to it
  std::unique_ptr<ParameterUpdate> update_;
  WeightAverage average_;
};

/// Linear warm-up from 0, constant, linear or cosine decay to the floor; in tokens. The rate for
/// the step that starts after `tokens_before` tokens: warm-up reaches the full rate at the first
/// step past warmup_tokens, and the decay would reach the floor with the step after the last.
double learning_rate_at(const TrainConfig& config, std::int64_t tokens_before);

}  // namespace thresher::trainer
