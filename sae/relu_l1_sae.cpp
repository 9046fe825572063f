#include "sae/relu_l1_sae.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "core/error.h"
#include "core/random.h"
#include "kernels/decoder_norm.h"
#include "sae/initialisation.h"
#include "sae/lane_sums.h"

namespace thresher::sae {
namespace {

enum : int { kWEnc, kBEnc, kWDec, kBDec };

// Places in the sums of a lane; then the columns of x, then the sum of every latent's activations.
enum : std::size_t { kTokens, kErrorSquares, kInputSquares, kActive, kSums };

// The encoder's starting scale needs a mean norm, not the whole sample.
constexpr std::int64_t kScaleRows = 1024;

constexpr kernels::Exec kExec{};

std::span<const float> values_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

}  // namespace

ReluL1Sae::ReluL1Sae(const ReluL1Config& config, std::int64_t d_in)
    : config_(config), firing_(config.latents(d_in)) {
  d_in_ = d_in;
  n_latents_ = config.latents(d_in);
  const auto zeros = [](at::IntArrayRef shape) { return at::zeros(shape, at::kFloat); };
  parameters_ = {
      {"W_enc", zeros({n_latents_, d_in}).t(), zeros({n_latents_, d_in}).t(), 1},
      {"b_enc", zeros({n_latents_}), zeros({n_latents_}), 0},
      {"W_dec", zeros({n_latents_, d_in}), zeros({n_latents_, d_in}), 0},
      {"b_dec", zeros({d_in}), zeros({d_in})},
  };
  decoder_norms_ = zeros({n_latents_});
  for (const Parameter& parameter : parameters_) trees_.emplace_back(parameter.weight.numel());
}

std::vector<std::pair<std::string, at::Tensor>> ReluL1Sae::buffers() {
  return {{"tokens_since_fired", firing_.tokens_since_fired()}};
}

void ReluL1Sae::initialise(std::uint64_t seed, const at::Tensor& sample) {
  at::Tensor& W_dec = parameters_[kWDec].weight;
  fill_random_directions(W_dec, config_.decoder_init_norm, RandomStream(seed, "sae.relu_l1.W_dec"));
  parameters_[kWEnc].weight.copy_(W_dec.t());
  parameters_[kBEnc].weight.zero_();
  parameters_[kBDec].weight.copy_(initial_decoder_bias(config_.decoder_bias_init, sample));
  if (config_.is_bricken()) match_norms(sample);
}

void ReluL1Sae::match_norms(const at::Tensor& sample) {
  // Without an encoder bias the reconstruction is linear in the encoder's scale, so one ratio makes
  // the norms equal.
  ReluL1Lane lane;
  lane.x = sample.slice(0, 0, kScaleRows) - parameters_[kBDec].weight;
  relu_l1_forward(weights(), lane);
  double input_norms = 0, recon_norms = 0;
  for (std::int64_t r = 0; r < lane.x.size(0); ++r) {
    input_norms += std::sqrt(sum_of_squares(lane.x[r]));
    recon_norms += std::sqrt(sum_of_squares(lane.x[r] - lane.error[r]));
  }
  if (recon_norms > 0) parameters_[kWEnc].weight.mul_(input_norms / recon_norms);
}

void ReluL1Sae::constrain_weights() {
  if (!config_.is_bricken()) return;
  kernels::normalise_rows(kExec, n_latents_, d_in_,
                          parameters_[kWDec].weight.mutable_data_ptr<float>());
}

ReluL1Weights ReluL1Sae::weights() const {
  return {parameters_[kWEnc].weight,
          parameters_[kBEnc].weight,
          parameters_[kWDec].weight,
          parameters_[kBDec].weight,
          decoder_norms_,
          config_.is_bricken()};
}

void ReluL1Sae::begin_step(const StepInfo& info) {
  info_ = info;
  l1_ = config_.l1_at(info.tokens_before, info.total_tokens);
  replaced_.clear();
  lanes_.resize(static_cast<std::size_t>(info.n_local_lanes));
  lane_sums_.assign(lanes_.size(), {});
  for (kernels::LaneTree& tree : trees_) tree.clear();
  firing_.begin_step();
  if (config_.is_bricken()) return;
  kernels::row_norms(kExec, n_latents_, d_in_, parameters_[kWDec].weight.const_data_ptr<float>(),
                     decoder_norms_.mutable_data_ptr<float>());
}

void ReluL1Sae::forward(const std::vector<at::Tensor>& lanes, comm::Communicator& comm) {
  check_lanes(lanes);
  for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
    forward_lane(static_cast<std::int64_t>(lane), lanes[lane]);
  }
  sums_ = lane_tree_sum(std::move(lane_sums_));
  comm.all_reduce_sum(std::span<double>(sums_), "sae." + config_.name + ".forward");
  THRESHER_CHECK(sums_[kTokens] == static_cast<double>(info_.batch_tokens),
                 "the lanes of all ranks hold batch_tokens rows");
}

void ReluL1Sae::forward_lane(std::int64_t lane_index, const at::Tensor& x) {
  ReluL1Lane& lane = lanes_.at(static_cast<std::size_t>(lane_index));
  // A copy of its own: products may round differently for another memory alignment, and a lane must
  // have the same bits wherever its rows lay in a batch.
  if (!lane.x.defined()) lane.x = at::empty({0}, x.options());
  lane.x.resize_(x.sizes());
  if (config_.is_bricken()) {
    at::sub_out(lane.x, x, parameters_[kBDec].weight);
  } else {
    lane.x.copy_(x);
  }
  relu_l1_forward(weights(), lane);
  firing_.fire_dense(lane.latent_acts);

  std::vector<double>& sums = lane_sums_[static_cast<std::size_t>(lane_index)];
  sums.assign(kSums, 0.0);
  sums[kTokens] = static_cast<double>(x.size(0));
  sums[kErrorSquares] = sum_of_squares(lane.error);
  sums[kInputSquares] = sum_of_squares(lane.x);
  sums[kActive] = static_cast<double>(at::count_nonzero(lane.latent_acts).item<std::int64_t>());
  const std::vector<double> x_sums = column_sums(lane.x);
  const std::vector<double> latent_sums = column_sums(lane.latent_acts);
  sums.insert(sums.end(), x_sums.begin(), x_sums.end());
  sums.insert(sums.end(), latent_sums.begin(), latent_sums.end());
}

void ReluL1Sae::backward() {
  const auto narrowed = [](const std::vector<double>& values) {
    return std::vector<float>(values.begin(), values.end());
  };
  for (const ReluL1Lane& lane : lanes_) {
    relu_l1_backward(weights(), lane, static_cast<double>(info_.batch_tokens), l1_,
                     lane_gradients_);
    trees_[kWEnc].add(values_of(lane_gradients_.W_enc));
    trees_[kBEnc].add(narrowed(lane_gradients_.b_enc));
    trees_[kWDec].add(values_of(lane_gradients_.W_dec));
    trees_[kBDec].add(narrowed(lane_gradients_.b_dec));
  }
  for (std::size_t p = 0; p < parameters_.size(); ++p) {
    const std::span<const float> sum = trees_[p].result();
    std::copy(sum.begin(), sum.end(), parameters_[p].gradient.mutable_data_ptr<float>());
  }
}

void ReluL1Sae::finish_gradients() {
  if (config_.is_bricken()) {
    relu_l1_input_gradient(weights(), parameters_[kBEnc].gradient, parameters_[kBDec].gradient);
    kernels::remove_parallel_component(kExec, n_latents_, d_in_,
                                       parameters_[kWDec].weight.const_data_ptr<float>(),
                                       parameters_[kWDec].gradient.mutable_data_ptr<float>());
    return;
  }
  const std::vector<double> latent_sums(sums_.begin() + static_cast<std::ptrdiff_t>(kSums) + d_in_,
                                        sums_.end());
  relu_l1_norm_gradient(weights(), latent_sums, static_cast<double>(info_.batch_tokens), l1_,
                        parameters_[kWDec].gradient);
}

Json ReluL1Sae::finish_step(comm::Communicator& comm) {
  constrain_weights();
  firing_.finish_step(comm, info_.batch_tokens, "sae." + config_.name + ".fired");
  if (config_.is_resampling_due(info_.tokens_before, info_.tokens_before + info_.batch_tokens,
                                info_.total_tokens)) {
    resample(comm);
  }
  return figures();
}

Json ReluL1Sae::figures() const {
  const auto tokens = static_cast<double>(info_.batch_tokens);
  double penalty = 0;
  double variance = sums_[kInputSquares];
  for (std::int64_t j = 0; j < d_in_; ++j) {
    const double sum = sums_[kSums + static_cast<std::size_t>(j)];
    variance -= sum * sum / tokens;
  }
  const float* norms = decoder_norms_.const_data_ptr<float>();  // as they were before the step
  for (std::int64_t i = 0; i < n_latents_; ++i) {
    const double norm = config_.is_bricken() ? 1 : static_cast<double>(norms[i]);
    penalty += sums_[kSums + static_cast<std::size_t>(d_in_ + i)] * norm;
  }
  const double reconstruction_loss = sums_[kErrorSquares] / tokens;
  const double sparsity_loss = l1_ * penalty / tokens;
  Json json = Json::object({{"loss", reconstruction_loss + sparsity_loss},
                            {"reconstruction_loss", reconstruction_loss},
                            {"sparsity_loss", sparsity_loss},
                            {"l1_coefficient", l1_},
                            {"batch_fvu", sums_[kErrorSquares] / variance},
                            {"l0", sums_[kActive] / tokens},
                            {"dead_latents", firing_.count_dead(info_.dead_window_tokens)}});
  if (config_.is_bricken()) {
    json["resampled_latents"] = static_cast<std::int64_t>(replaced_.size());
  }
  return json;
}

InferenceSae ReluL1Sae::to_inference(const InputTransform& transform) const {
  // With x_t = s (x - c), every weight in float64 and rounded once:
  //   pre-activations   x (s W_enc) + b_enc - s c W_enc
  //   reconstruction    f (W_dec / s) + b_dec / s + c
  // and the norm n of a row of W_dec / s moves into its latent's activation. Where b_dec is
  // subtracted first, the pre-activations are (x - b_dec / s - c) (s W_enc) + b_enc.
  const std::int64_t d = d_in_;
  const std::int64_t F = n_latents_;
  const float* W_enc = parameters_[kWEnc].weight.const_data_ptr<float>();
  const float* b_enc = parameters_[kBEnc].weight.const_data_ptr<float>();
  const float* W_dec = parameters_[kWDec].weight.const_data_ptr<float>();
  const float* b_dec = parameters_[kBDec].weight.const_data_ptr<float>();
  const double s = transform.scale;
  InferenceSae out;
  out.architecture = "standard";
  out.apply_b_dec_to_input = config_.is_bricken();
  out.W_enc = at::empty({d, F}, at::kFloat);
  out.b_enc = at::empty({F}, at::kFloat);
  out.W_dec = at::empty({F, d}, at::kFloat);
  out.b_dec = at::empty({d}, at::kFloat);
  auto* out_W_enc = out.W_enc.mutable_data_ptr<float>();
  auto* out_b_enc = out.b_enc.mutable_data_ptr<float>();
  auto* out_W_dec = out.W_dec.mutable_data_ptr<float>();
  auto* out_b_dec = out.b_dec.mutable_data_ptr<float>();

  std::vector<double> norms(static_cast<std::size_t>(F)), shift(static_cast<std::size_t>(F), 0.0);
  for (std::int64_t i = 0; i < F; ++i) {
    double squares = 0;
    for (std::int64_t j = 0; j < d; ++j) {
      const auto w = static_cast<double>(W_dec[i * d + j]);
      squares += w * w;
    }
    norms[i] = std::sqrt(squares);
    for (std::int64_t j = 0; j < d; ++j) {
      const auto w = static_cast<double>(W_dec[i * d + j]);
      out_W_dec[i * d + j] = static_cast<float>(norms[i] > 0 ? w / norms[i] : 0);
    }
  }
  for (std::int64_t j = 0; j < d; ++j) {
    for (std::int64_t i = 0; i < F; ++i) {
      const auto w = static_cast<double>(W_enc[i * d + j]);  // latent-major
      if (!out.apply_b_dec_to_input) shift[i] += transform.centre[j] * w;
      out_W_enc[j * F + i] = static_cast<float>(w * norms[i]);
    }
    out_b_dec[j] = static_cast<float>(static_cast<double>(b_dec[j]) / s + transform.centre[j]);
  }
  for (std::int64_t i = 0; i < F; ++i) {
    out_b_enc[i] =
        static_cast<float>((static_cast<double>(b_enc[i]) - s * shift[i]) * norms[i] / s);
  }
  out.metadata["hook_name"] = config_.hook_point;
  return out;
}

}  // namespace thresher::sae
