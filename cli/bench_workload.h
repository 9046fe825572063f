#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "cli/bench.h"
#include "comm/communicator.h"
#include "core/json.h"
#include "sae/training_sae.h"
#include "trainer/step.h"

namespace thresher::cli {

/// Bytes that any training of this SAE with Adam in float32 must hold.
struct StepMemory {
  std::int64_t parameters = 0, optimiser = 0, gradients = 0;
};

/// An SAE in the middle of training on four batches in memory: what `bench step` times.
class StepWorkload {
 public:
  /// Sets the number of threads, and takes the GPU. ConfigError for options that do not go together
  /// or sizes that cannot work; DeviceError without a GPU.
  explicit StepWorkload(const BenchStepOptions& options);
  /// On the next of the four batches. StoppedBySignal once a stop is asked for.
  void take_step();
  /// Of the last step.
  double figure(const char* name) const;

  const StepSize& size() const { return size_; }
  bool has_k() const { return has_k_; }
  std::int64_t lanes() const { return config_.lanes; }
  Device device() const { return place_.device; }
  bool has_bfloat16_operands() const { return place_.has_bfloat16_operands; }
  /// The SAE's fields but those that are `auto` or belong to a cache and a run.
  Json sae_fields() const;
  StepMemory memory();
  at::Tensor batch(std::int64_t index) const;
  /// A copy [d_in, n_latents], however the variant keeps it.
  at::Tensor row_major_encoder();

 private:
  std::unique_ptr<sae::SaeConfig> sae_config(const BenchStepOptions& options) const;
  at::Tensor& weight(const char* name);
  /// Moves all encoder biases by one number so that about `l0` latents a token are active.
  void reach_l0(double l0);
  double l0_of(const std::vector<at::Tensor>& lanes);
  /// From now on as in the middle of a run: no latent but these has been silent.
  void make_dead(double fraction, bool has_aux);

  StepSize size_;
  bool has_k_ = false;
  bool is_logged_ = false;
  sae::TrainingPlace place_;
  trainer::TrainConfig config_;
  sae::StepInfo info_;
  std::unique_ptr<comm::Communicator> comm_;
  at::Tensor rows_;  // on the device
  std::unique_ptr<sae::TrainingSae> sae_;
  std::optional<trainer::Step> step_;
  Json figures_;
};

}  // namespace thresher::cli
