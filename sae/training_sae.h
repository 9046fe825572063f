#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "activation_cache/activation_source.h"
#include "comm/communicator.h"
#include "core/device.h"
#include "core/json.h"
#include "sae/inference_sae.h"
#include "sae/sae_config.h"

namespace thresher::sae {

/// x_trained = scale * (x - centre): what the SAE sees in training. Folded away by to_inference.
struct InputTransform {
  std::vector<double> centre;  // [d_in]; zeros when centring is off
  double scale = 1;
};
InputTransform make_input_transform(const SaeConfig& config,
                                    const activation_cache::SourceStatistics& statistics);

/// What a step needs to know beyond the data.
struct StepInfo {
  std::int64_t step = 0;
  std::int64_t tokens_before = 0;  // global tokens seen before this step
  std::int64_t total_tokens = 0;
  std::int64_t batch_tokens = 0;  // global
  std::int64_t dead_window_tokens = 0;
  std::int64_t n_local_lanes = 0;  // lanes this rank owns; a power of two
  std::uint64_t seed = 0;          // of draws during training, e.g. of resampling
};

/// One trained tensor. `weight` and `gradient` have the same shape and the same strides: each fills
/// its memory without gaps, so element-wise work (Adam, sums over ranks, norms) may run over
/// data_ptr() and numel() as long as everything that belongs together (moments too) is made by
/// at::zeros_like(weight), which keeps the strides. The strides are the variant's choice: all
/// keep W_enc latent-major (a transposed view of [n_latents, d_in]), because sparse gradients
/// arrive a latent at a time. Files hold the shape below in row-major order: write
/// `weight.contiguous()`, read with `weight.copy_(...)`.
struct Parameter {
  std::string name;   // "W_enc" [d_in, n_latents], "b_enc", "W_dec" [n_latents, d_in], "b_dec"
  at::Tensor weight;  // float32 master copy
  at::Tensor gradient;
  std::int64_t latent_dim = -1;  // which dimension counts latents; -1: none does
  /// The rows, as they lie in memory, are kept at unit norm: the trainer leaves the part of the
  /// gradient that is parallel to a row out of norm and update, and scales the row back afterwards.
  bool has_unit_rows = false;
  double learning_rate_factor = 1;  // times the SAE's learning rate
  /// A copy of the weight rounded to bfloat16, same strides, that every update writes anew;
  /// undefined: none is wanted.
  at::Tensor bfloat16 = {};

  /// Rows as they lie in memory, where a variant may keep a matrix transposed; 1 for a vector.
  std::int64_t memory_rows() const;
};

/// An SAE under training. One step, driven by trainer/step.cpp, is
///
///   - begin_step: decides what depends on earlier steps (dead latents, warm-ups);
///   - forward(lanes, comm): encodes, selects, reconstructs; keeps what backward needs; global
///     selections and denominators are made here;
///   - backward(): this rank's partial gradients, summed along the lane tree, into
///     Parameter::gradient;
///   - the trainer all-reduces every gradient;
///   - finish_gradients(): terms computed from reduced gradients;
///   - the trainer takes the norm, clips, lets Adam update, and keeps unit rows at unit norm;
///   - finish_step(comm): dead-latent counters; returns the step's global figures.
///
/// On a device all but finish_step only enqueue work on the current stream (is_enqueued).
///
/// `lanes` are the rank's own, n_local_lanes of them, in order; together the ranks' lanes hold
/// batch_tokens rows. Everything is a pure function of the global batch: bits do not
/// depend on the number of ranks or threads. Losses are means over the global batch's tokens. A NaN
/// in the inputs comes out in the loss.
class TrainingSae {
 public:
  virtual ~TrainingSae() = default;
  virtual const SaeConfig& config() const = 0;
  std::int64_t d_in() const { return d_in_; }
  std::int64_t n_latents() const { return n_latents_; }

  /// Same seed, same weights, on every rank. `sample` [n, d_in]: transformed inputs.
  virtual void initialise(std::uint64_t seed, const at::Tensor& sample) = 0;

  /// Whether gradients and figures are complete only once the device's stream has been waited for,
  /// so that whoever updates the weights must stay on the device, too.
  virtual bool is_enqueued() const { return false; }

  virtual void begin_step(const StepInfo& info) = 0;
  /// lanes[i]: contiguous float32 [rows, d_in], the transformed inputs of local lane i, where the
  /// weights are.
  virtual void forward(const std::vector<at::Tensor>& lanes, comm::Communicator& comm) = 0;
  virtual void backward() = 0;
  virtual void finish_gradients() = 0;
  /// Keys: loss, reconstruction_loss, sparsity_loss (relu_l1, jumprelu) or aux_loss (topk),
  /// batch_fvu, l0, dead_latents (moving count: silent for dead_window_tokens at the end of this
  /// step), and what a variant adds (docs/variants.md). Dead latents may be resampled here.
  virtual Json finish_step(comm::Communicator& comm) = 0;

  /// Latents whose weights the last finish_step replaced, ascending. The trainer then forgets what
  /// it remembers of them: Adam's moments become 0, an average of weights takes the new ones.
  virtual const std::vector<std::int64_t>& replaced_latents() const {
    static const std::vector<std::int64_t> none;
    return none;
  }
  /// Scales the rows of weights with unit rows back after a change from outside (an average of
  /// several steps).
  void constrain_weights();

  /// In a fixed order: W_enc, b_enc, W_dec, b_dec, then what a variant adds.
  virtual std::vector<Parameter>& parameters() = 0;
  /// State besides parameters that a checkpoint must hold, by name: e.g. "tokens_since_fired" int64
  /// [n_latents], "mean_squared_input" float64 [1] (topk). The tensors share memory with the SAE:
  /// restore with copy_.
  virtual std::vector<std::pair<std::string, at::Tensor>> buffers() = 0;

  virtual InferenceSae to_inference(const InputTransform& transform) const = 0;

 protected:
  /// InternalError unless every lane is as `forward` wants it.
  void check_lanes(const std::vector<at::Tensor>& lanes) const;

  std::int64_t d_in_ = 0;
  std::int64_t n_latents_ = 0;
};

/// Where and in which number types an SAE is trained.
struct TrainingPlace {
  Device device = Device::kCpu;  // with CUDA the current GPU of the calling thread
  /// What products multiply is rounded to bfloat16: inputs, residuals and copies of the matrices.
  /// Sums, weights, gradients and Adam stay float32.
  bool has_bfloat16_operands = false;
};

/// Through the registry. ConfigError when the config cannot work at this width (k > n_latents,
/// aux_k > n_latents) or the variant cannot be trained at this place.
std::unique_ptr<TrainingSae> make_training_sae(const SaeConfig& config, std::int64_t d_in,
                                               const TrainingPlace& place = {});

}  // namespace thresher::sae
