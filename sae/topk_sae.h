#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/dense_aux_k.h"
#include "kernels/encode_select.h"
#include "kernels/tree_sum.h"
#include "sae/firing_history.h"
#include "sae/sparse_lanes.h"
#include "sae/training_sae.h"

namespace thresher::sae {

/// TopK and BatchTopK with AuxK (docs/variants.md has the formulas). The latter differs in how the
/// main selection is made, and in the threshold that stands for it where there is no batch.
/// Everything behind the encoder product is sparse: a lane keeps its k + aux_k chosen (latent,
/// value) pairs a token, and gradients are summed latent by latent.
///
/// W_enc is stored latent-major, [n_latents, d_in]; parameters() shows the transposed view.
class TopKSae final : public TrainingSae {
 public:
  /// Up to so many dead latents for each that AuxK takes, dense products of all of them are faster
  /// than pairs.
  static constexpr std::int64_t kDenseAuxShare = 6;

  TopKSae(const TopKConfig& config, std::int64_t d_in);
  TopKSae(const BatchTopKConfig& config, std::int64_t d_in);
  const SaeConfig& config() const override {
    return is_batch() ? static_cast<const SaeConfig&>(*batch_config_) : config_;
  }

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
  at::Tensor& weight(int parameter) {
    return parameters_[static_cast<std::size_t>(parameter)].weight;
  }
  const at::Tensor& weight(int parameter) const {
    return parameters_[static_cast<std::size_t>(parameter)].weight;
  }
  at::Tensor& gradient(int parameter) {
    return parameters_[static_cast<std::size_t>(parameter)].gradient;
  }
  bool has_aux() const { return aux_k_now_ > 0; }
  bool has_aux_pairs() const { return has_aux() && !is_aux_dense_; }
  /// Whether AuxK is part of this step's loss and computed by dense_aux_.
  bool has_dense_aux() const { return has_aux() && is_aux_dense_ && aux_denominator_ > 0; }

  bool is_batch() const { return batch_config_.has_value(); }
  /// Inputs and pairs of every lane.
  void encode(const std::vector<at::Tensor>& lanes, comm::Communicator& comm);
  void select(const kernels::EncoderProduct& product, comm::Communicator& comm);
  void select_in_batch(const kernels::EncoderProduct& product, const std::uint8_t* mask,
                       const kernels::TopKSlots* aux, comm::Communicator& comm);
  /// A guess at what the batch's smallest kept activation will be at least. Same on all ranks.
  float guess_bound(const kernels::EncoderProduct& product, comm::Communicator& comm);
  void update_threshold();
  double exported_threshold() const {
    return threshold_sum_.const_data_ptr<double>()[0] /
           threshold_weight_.const_data_ptr<double>()[0];
  }
  std::vector<double> sum_lane(const SparseLanes::Lane& lane, const at::Tensor& x);
  /// AuxK's part of the gradients.
  void add_dense_aux(double factor);
  void reduce_sums(std::vector<std::vector<double>> lane_sums, comm::Communicator& comm);

  TopKConfig config_;
  std::optional<BatchTopKConfig> batch_config_;  // batch_topk
  std::int64_t k_;                               // of the current step
  std::int64_t aux_k_;
  at::Tensor mean_squared_input_;  // float64 [1]: V of the loss
  // batch_topk, float64 [1] each: threshold_sum_ / threshold_weight_ is the exported threshold.
  at::Tensor threshold_sum_, threshold_weight_;
  float smallest_kept_ = 0;  // of the last batch; only a guess for the next depends on it
  std::vector<Parameter> parameters_;
  FiringHistory firing_;

  // One step's state.
  StepInfo info_;
  std::vector<std::uint8_t> dead_mask_;
  std::int64_t n_dead_ = 0;
  std::int64_t aux_k_now_ = 0;  // slots a token of AuxK in this step; 0: inactive
  bool is_aux_dense_ = false;
  kernels::DenseAuxK dense_aux_;
  std::vector<double> aux_error_squares_;  // by lane, where AuxK is dense
  kernels::EncodeSelect encode_select_;
  kernels::SelectedPairs selected_, aux_selected_;  // in all local lanes' rows
  std::int64_t not_numbers_ = 0;                    // NaN among the pre-activations of local rows
  SparseLanes sparse_;
  std::vector<std::vector<double>> error_sums_;  // by lane, the columns of its error
  std::vector<double> sums_;                     // over the global batch
  double aux_denominator_ = 0;
  kernels::LaneTree b_dec_tree_;
};

}  // namespace thresher::sae
