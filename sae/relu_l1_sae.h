#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/tree_sum.h"
#include "sae/firing_history.h"
#include "sae/relu_l1_maths.h"
#include "sae/training_sae.h"

namespace thresher::sae {

/// ReLU + L1 in its two forms (docs/variants.md has the formulas): dense products; april weights
/// the penalty by decoder norms and leaves them free, bricken keeps the decoder rows at unit norm
/// and resamples dead latents. Every tensor is row-major.
class ReluL1Sae final : public TrainingSae {
 public:
  ReluL1Sae(const ReluL1Config& config, std::int64_t d_in);
  const SaeConfig& config() const override { return config_; }

  void initialise(std::uint64_t seed, const at::Tensor& sample) override;
  void begin_step(const StepInfo& info) override;
  void forward(const std::vector<at::Tensor>& lanes, comm::Communicator& comm) override;
  void backward() override;
  void finish_gradients() override;
  Json finish_step(comm::Communicator& comm) override;

  std::vector<Parameter>& parameters() override { return parameters_; }
  std::vector<std::pair<std::string, at::Tensor>> buffers() override;
  const std::vector<std::int64_t>& replaced_latents() const override { return replaced_; }
  void constrain_weights() override;
  InferenceSae to_inference(const InputTransform& transform) const override;

 private:
  ReluL1Weights weights() const;
  void forward_lane(std::int64_t lane, const at::Tensor& x);
  void match_norms(const at::Tensor& sample);
  Json figures() const;

  /// Gives dead latents new weights from badly reconstructed rows of this step's batch. Collective.
  void resample(comm::Communicator& comm);
  /// The squared loss of every row of the global batch, [batch_tokens].
  std::vector<double> candidate_weights(comm::Communicator& comm) const;
  /// x - b_dec of these rows of the global batch, [rows, d_in].
  at::Tensor gather_inputs(const std::vector<std::int64_t>& rows, comm::Communicator& comm) const;
  void replace_latent(std::int64_t latent, const float* input, double encoder_norm);
  std::int64_t first_local_row(const comm::Communicator& comm) const {
    return comm.rank() * (info_.batch_tokens / comm.world_size());
  }

  ReluL1Config config_;
  std::vector<Parameter> parameters_;
  FiringHistory firing_;

  // One step's state.
  StepInfo info_;
  double l1_ = 0;
  at::Tensor decoder_norms_;
  std::vector<ReluL1Lane> lanes_;
  std::vector<std::vector<double>> lane_sums_;
  std::vector<double> sums_;  // over the global batch; places in relu_l1_sae.cpp
  ReluL1Gradients lane_gradients_;
  std::vector<kernels::LaneTree> trees_;  // one a parameter, in their order
  std::vector<std::int64_t> replaced_;    // by the last resampling step's end; else empty
};

}  // namespace thresher::sae
