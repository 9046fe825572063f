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
  /// `lanes[i]` [rows, d_in]: transformed inputs of the rank's i-th lane. Returns the step's global figures with
  /// learning_rate and gradient_norm added. CommError-free failure: InternalError-like DataError naming the step when
  /// a loss or the gradient norm is not finite; no weight has changed then.
  Json run(const sae::StepInfo& info, const std::vector<at::Tensor>& lanes, comm::Communicator& comm);
  std::vector<Moments>& moments() { return moments_; }

 private:
  sae::TrainingSae* sae_;
  TrainConfig config_;
  std::vector<Moments> moments_;
};

/// Linear warm-up from 0, constant, linear decay to 0; in tokens. The rate for the step that starts after
/// `tokens_before` tokens: warm-up reaches the full rate at the first step past warmup_tokens.
double learning_rate_at(const TrainConfig& config, std::int64_t tokens_before);

}  // namespace thresher::trainer
