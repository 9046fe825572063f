#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/tree_sum.h"
#include "sae/firing_history.h"
#include "sae/relu_l1_maths.h"
#include "sae/sparse_lanes.h"
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
  InferenceSae to_inference(const InputTransform& transform) const override;

 private:
  ReluL1Weights weights() const;
  /// Fill lanes_ or sparse_, row_penalties_, and return every lane's sums.
  std::vector<std::vector<double>> forward_dense(const std::vector<at::Tensor>& lanes);
  std::vector<std::vector<double>> forward_sparse(const std::vector<at::Tensor>& lanes);
  void backward_dense();
  void backward_sparse();
  const at::Tensor& lane_inputs(std::size_t lane) const;
  /// The sum of a row's activations.
  double row_penalty(std::size_t lane, std::int64_t row) const;
  at::Tensor lane_error(std::size_t lane) const;
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
  at::Tensor last_l0_;  // float64 [1]: of the batch before; infinity before the first
  FiringHistory firing_;

  // One step's state.
  StepInfo info_;
  double l1_ = 0;
  at::Tensor decoder_norms_;
  // Whether latents are few enough in this step for sparse products: decided by last_l0_ alone, so
  // that bits depend on neither ranks nor kills. The first of the next two holds the lanes if not.
  bool is_sparse_ = false;
  std::vector<ReluL1Lane> lanes_;
  SparseLanes sparse_;
  kernels::EncodeSelect encode_select_;
  kernels::SelectedPairs selected_;
  std::int64_t not_numbers_ = 0;                    // NaN among the pre-activations of local rows
  std::vector<std::vector<double>> row_penalties_;  // of a sparse step, by lane
  std::vector<double> sums_;  // over the global batch; places in relu_l1_sae.cpp
  ReluL1Gradients lane_gradients_;
  std::vector<kernels::LaneTree> trees_;  // one a parameter, in their order
  std::vector<std::int64_t> replaced_;    // by the last resampling step's end; else empty
};

}  // namespace thresher::sae
