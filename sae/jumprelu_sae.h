#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/encode_select.h"
#include "kernels/tree_sum.h"
#include "sae/firing_history.h"
#include "sae/jumprelu_config.h"
#include "sae/jumprelu_formulas.h"
#include "sae/training_sae.h"

namespace thresher::sae {

/// Bounds of a step's working memory; a pair takes about 40 bytes.
struct JumpReluLimits {
  /// A lane is cut into 2^i equal chunks of rows, the fewest with at most so many pre-activations
  /// each. Chunks are leaves of the lane tree, so this decides bits.
  std::int64_t chunk_pairs = std::int64_t{1} << 23;
  /// While the previous step of this process had more pairs, they are not kept between forward and
  /// backward but computed again, a chunk at a time: the same bits in bounded memory, at the price
  /// of a second encoder product. The first step of a process is of that kind.
  std::int64_t kept_pairs = std::int64_t{1} << 24;
};

/// JumpReLU (docs/variants.md has the formulas). Works on the pairs (token, latent) whose
/// pre-activation is not below the window around its threshold: the others have neither an
/// activation nor a gradient, but for the loss on silent latents, which is a sum over all tokens
/// less one over these pairs. The matrix of pre-activations is never in memory.
///
/// W_enc is stored latent-major, [n_latents, d_in]; parameters() shows the transposed view. The
/// fifth parameter is "threshold" or "log_threshold" [n_latents].
class JumpReluSae final : public TrainingSae {
 public:
  JumpReluSae(const JumpReluConfig& config, std::int64_t d_in)
      : JumpReluSae(config, d_in, JumpReluLimits()) {}
  JumpReluSae(const JumpReluConfig& config, std::int64_t d_in, const JumpReluLimits& limits);
  const SaeConfig& config() const override { return config_; }

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
  enum : int { kWEnc, kBEnc, kWDec, kBDec, kThreshold };
  /// Places in the sums of a lane. The columns of x follow; for anthropic then, for every latent,
  /// the slope of the penalty by the decoder's norm and the sum of z - theta over tokens with z >=
  /// theta.
  enum : std::size_t { kTokens, kErrorSquares, kInputSquares, kActive, kPenalty, kSums };
  /// Rows of one lane that are summed before anything else is added to them.
  struct Chunk {
    std::size_t lane = 0;
    std::int64_t first_row = 0, rows = 0;  // of this rank's rows
    std::vector<double> error_sums;        // columns of x - recon
    std::vector<std::int64_t> offsets;     // pairs by latent: [n_latents + 1]
  };

  const at::Tensor& weight(int parameter) const {
    return parameters_[static_cast<std::size_t>(parameter)].weight;
  }
  const at::Tensor& gradient(int parameter) const {
    return parameters_[static_cast<std::size_t>(parameter)].gradient;
  }
  /// exp of the parameter, or the parameter. float32 [n_latents].
  std::vector<float> thresholds() const;
  double norm_of(std::int32_t latent) const {
    return config_.is_anthropic() ? static_cast<double>(norms_[static_cast<std::size_t>(latent)])
                                  : 1.0;
  }
  void start_encoder_bias(const at::Tensor& sample);

  void take_inputs(const std::vector<at::Tensor>& lanes);
  /// The pairs of these rows and their activations.
  void encode(std::int64_t first_row, std::int64_t rows);
  std::int64_t* row_offsets(const Chunk& chunk) {
    return pairs_.row_offsets.data() + (chunk.first_row - pairs_first_row_);
  }
  float* rows_of(at::Tensor& tensor, const Chunk& chunk) const {
    return tensor.mutable_data_ptr<float>() + chunk.first_row * d_in_;
  }
  /// Errors, and for every pair the product of its row's error with its decoder row.
  void reconstruct(const Chunk& chunk);
  /// The same product for the pairs without activation.
  void add_silent_products(const Chunk& chunk);
  void sum_chunk(Chunk& chunk);
  void reduce_sums(comm::Communicator& comm);
  void differentiate(Chunk& chunk);
  void accumulate(std::size_t first_chunk, std::size_t n_chunks);
  void add_decoder_norm_gradient();
  void add_silent_gradient();
  /// Of every latent, the sum over tokens of max(theta - z, 0); anthropic only.
  std::vector<double> silent_sums() const;

  JumpReluConfig config_;
  JumpReluLimits limits_;
  std::vector<Parameter> parameters_;
  FiringHistory firing_;

  // One step's state.
  StepInfo info_;
  JumpReluFormulas formulas_;
  std::vector<float> thresholds_, bounds_;  // below its bound a pre-activation has no effect
  std::vector<float> norms_;                // of the decoder rows; anthropic only
  std::int64_t last_pairs_ = -1, n_pairs_ = 0;
  bool keeps_pairs_ = false;
  at::Tensor inputs_, errors_;  // [rows, d_in], all local lanes; errors become gradients
  std::vector<Chunk> chunks_;
  kernels::EncodeSelect encode_select_;
  // Of all local rows if they are kept, else of one chunk. `products_` become gradients of z.
  kernels::SelectedPairs pairs_;
  std::int64_t pairs_first_row_ = 0;
  std::vector<float> acts_, products_, ones_;
  std::vector<std::int32_t> pair_rows_, pair_slots_;
  struct {
    std::vector<std::int64_t> row_offsets;
    std::vector<std::int32_t> indices;
    std::vector<std::int64_t> slots;
    std::vector<float> products;
  } silent_;
  std::int64_t not_numbers_ = 0;
  std::vector<std::vector<double>> lane_sums_;
  std::vector<double> sums_;  // over the global batch
  double silent_loss_ = 0;
  kernels::LaneTree b_dec_tree_, threshold_tree_;
  // Used while pairs are not kept.
  kernels::LaneTree W_dec_tree_, W_enc_tree_, b_enc_tree_;
};

}  // namespace thresher::sae
