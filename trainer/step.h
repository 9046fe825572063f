#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "sae/training_sae.h"
#include "trainer/train_config.h"

namespace thresher::trainer {

/// Adam's moments of one parameter.
struct Moments {
  at::Tensor m, v;  // float32, the parameter's shape
};

/// The training step of one SAE: the same function in `train`, in the tests and in `bench step`.
class Step {
 public:
  Step(sae::TrainingSae& sae, const TrainConfig& config);
  /// `lanes[i]` [rows, d_in]: transformed inputs of the rank's i-th lane. Collective. Returns the
  /// step's global figures with learning_rate and gradient_norm (before clipping) added. DataError
  /// on every rank when the gradient norm is not finite (as it is when an input or a loss is not),
  /// naming the SAE, the step and the first bad tensor; no weight, moment or counter has changed
  /// then.
  Json run(const sae::StepInfo& info, const std::vector<at::Tensor>& lanes,
           comm::Communicator& comm);
  /// In the order of the SAE's parameters.
  std::vector<Moments>& moments() { return moments_; }

 private:
  void compute_gradients(const sae::StepInfo& info, const std::vector<at::Tensor>& lanes,
                         comm::Communicator& comm);
  double gradient_norm() const;
  void update(const sae::StepInfo& info, double learning_rate, double norm);

  sae::TrainingSae* sae_;
  TrainConfig config_;
  std::vector<Moments> moments_;
};

/// Linear warm-up from 0, constant, linear decay to 0; in tokens. The rate for the step that starts
/// after `tokens_before` tokens: warm-up reaches the full rate at the first step past
/// warmup_tokens, and the decay would reach 0 with the step after the last.
double learning_rate_at(const TrainConfig& config, std::int64_t tokens_before);

}  // namespace thresher::trainer
