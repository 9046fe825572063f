#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sae/training_sae.h"

namespace thresher::sae {

/// TopK with AuxK as TopKSae trains it (docs/variants.md has the formulas), for tensors on a
/// device: a step is enqueued on the device's current stream, and no value comes to the host before
/// finish_step, which waits for all of them at once. On Device::kCpu the same code computes at
/// once.
///
/// All rows of a rank are one lane: sums follow the order of the device's kernels, so bits depend
/// on the number of ranks (docs/determinism.md). Selection and its ties, firing and dead latents
/// are TopKSae's wherever the pre-activations are.
///
/// W_enc is stored latent-major, [n_latents, d_in]; parameters() shows the transposed view. With
/// bfloat16 operands the inputs x - b_dec and the residuals are rounded as they are computed, and
/// both matrices stand in copies (Parameter::bfloat16) that the update writes along with the
/// weights.
class DeviceTopKSae final : public TrainingSae {
 public:
  DeviceTopKSae(const TopKConfig& config, std::int64_t d_in, const TrainingPlace& place);
  const SaeConfig& config() const override { return config_; }
  bool is_enqueued() const override { return true; }

  void initialise(std::uint64_t seed, const at::Tensor& sample) override;
  void begin_step(const StepInfo& info) override;
  void forward(const std::vector<at::Tensor>& lanes, comm::Communicator& comm) override;
  void backward() override;
  void finish_gradients() override;
  Json finish_step(comm::Communicator& comm) override;

  std::vector<Parameter>& parameters() override { return parameters_; }
  std::vector<std::pair<std::string, at::Tensor>> buffers() override;
  InferenceSae to_inference(const InputTransform& transform) const override;

 private:
  at::Tensor& weight(int parameter) { return parameters_[parameter].weight; }
  at::Tensor& gradient(int parameter) { return parameters_[parameter].gradient; }
  bool has_aux() const { return aux_k_now_ > 0; }
  std::int64_t n_slots() const { return rows_ * (k_ + aux_k_now_); }
  std::int64_t sparse_rows() const { return has_aux() ? 2 * rows_ : rows_; }
  at::Tensor sum_at(int place) const { return sums_.select(0, place); }

  /// Makes the tensors of a step of so many rows, if the last step was of others.
  void make_room(std::int64_t rows);
  void refresh_bfloat16();
  void encode(const at::Tensor& x);
  void reconstruct(const at::Tensor& x);
  void add_up(const at::Tensor& x);
  void find_aux_denominator();
  /// The gradients of the matrices and of b_enc, of this rank's rows.
  void accumulate();
  /// What this step makes of tokens_since_fired_; taken over by finish_step.
  void prepare_firing();
  void enqueue_figures();

  TopKConfig config_;
  TrainingPlace place_;
  at::TensorOptions options_;  // float32 on the device
  std::int64_t k_;             // of the current step
  std::int64_t aux_k_;
  double mean_squared_input() const { return mean_squared_input_.const_data_ptr<double>()[0]; }
  at::Tensor mean_squared_input_;  // float64 [1] in host memory: V of the loss
  at::Tensor tokens_since_fired_;  // int64 [n_latents]
  std::vector<Parameter> parameters_;
  std::vector<std::int64_t> rounded_versions_;  // of weights when their bfloat16 copies were made

  // One step's state.
  StepInfo info_;
  at::Tensor dead_mask_;  // bool [n_latents]
  std::int64_t n_dead_ = 0;
  /// Dead latents at the start of the next step, from the figures of the last one, and the window
  /// that they were counted with; empty when tokens_since_fired_ may have been changed from
  /// outside.
  std::optional<std::pair<std::int64_t, std::int64_t>> next_dead_;
  std::int64_t aux_k_now_ = 0;  // slots a token of AuxK in this step; 0: inactive
  std::int64_t rows_ = 0;       // of this rank
  at::Tensor inputs_;           // [rows, d_in]: x - b_dec
  at::Tensor rounded_inputs_;   // the same in bfloat16, where the encoder takes that
  at::Tensor row_offsets_;      // int64 [sparse rows + 1]
  std::int64_t offsets_k_ = 0, offsets_aux_k_ = 0, offsets_rows_ = 0;  // that row_offsets_ is for
  at::Tensor values_, indices_, value_gradients_;  // [slots]: of the main selection, then AuxK's
  at::Tensor residuals_, rounded_residuals_;       // [sparse rows, d_in]; float32 and bfloat16
  at::Tensor offsets_, pair_rows_, pair_slots_;    // sorted by latent
  at::Tensor not_numbers_;                         // int64 [1]
  at::Tensor sums_;              // float64: scalars, column sums of x and of the error; global
  at::Tensor local_error_sums_;  // float64 [d_in]: this rank's
  at::Tensor fired_;             // int64 [n_latents]; global
  at::Tensor aux_denominator_;   // float64 scalar
  at::Tensor next_tokens_since_fired_;
  at::Tensor figures_, host_figures_;  // float64, on the device and in (pinned) host memory
};

}  // namespace thresher::sae
