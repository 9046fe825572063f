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

/// ReLU + L1 in the April-2024 form (docs/variants.md has the formulas): dense products, the
/// penalty weighted by decoder norms, no constraint on them. Every tensor is row-major.
class ReluL1Sae final : public TrainingSae {
 public:
  ReluL1Sae(const ReluL1Config& config, std::int64_t d_in);
  const SaeConfig& config() const override { return config_; }

  void initialise(std::uint64_t seed, const at::Tensor& sample) override;
  void begin_step(const StepInfo& info) override;
  void forward(std::int64_t lane, const at::Tensor& x) override;
  void reduce_forward(comm::Communicator& comm) override;
  void backward(std::int64_t lane) override;
  void finish_local() override;
  void finish_gradients() override;
  Json finish_step(comm::Communicator& comm) override;

  std::vector<Parameter>& parameters() override { return parameters_; }
  std::vector<std::pair<std::string, at::Tensor>> buffers() override;
  InferenceSae to_inference(const InputTransform& transform) const override;

  /// The penalty's weight for a step that starts after `tokens_before` tokens.
  double l1_at(std::int64_t tokens_before, std::int64_t total_tokens) const;

 private:
  ReluL1Weights weights() const;

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
};

}  // namespace thresher::sae
