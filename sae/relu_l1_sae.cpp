#include "sae/relu_l1_sae.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
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

// Up to this part of the dictionary active on average, sparse products are faster than dense ones
// (`thresher bench step --variant relu_l1 --l0 N` shows both sides of it).
constexpr double kSparseShare = 1.0 / 8;

/// A lane's sums but for those of the latents.
std::vector<double> sums_of(const at::Tensor& x, const at::Tensor& error, std::int64_t n_active) {
  std::vector<double> sums(kSums, 0.0);
  sums[kTokens] = static_cast<double>(x.size(0));
  sums[kErrorSquares] = sum_of_squares(error);
  sums[kInputSquares] = sum_of_squares(x);
  sums[kActive] = static_cast<double>(n_active);
  const std::vector<double> x_sums = column_sums(x);
  sums.insert(sums.end(), x_sums.begin(), x_sums.end());
  return sums;
}

}  // namespace

ReluL1Sae::ReluL1Sae(const ReluL1Config& config, std::int64_t d_in)
    : config_(config), firing_(config.latents(d_in)), sparse_(d_in, config.latents(d_in)) {
  d_in_ = d_in;
  n_latents_ = config.latents(d_in);
  const auto zeros = [](at::IntArrayRef shape) { return at::zeros(shape, at::kFloat); };
  parameters_ = {
      {"W_enc", zeros({n_latents_, d_in}).t(), zeros({n_latents_, d_in}).t(), 1},
      {"b_enc", zeros({n_latents_}), zeros({n_latents_}), 0},
      {"W_dec", zeros({n_latents_, d_in}), zeros({n_latents_, d_in}), 0, config.is_bricken()},
      {"b_dec", zeros({d_in}), zeros({d_in})},
  };
  decoder_norms_ = zeros({n_latents_});
  last_l0_ = at::full({1}, std::numeric_limits<double>::infinity(), at::kDouble);
  for (const Parameter& parameter : parameters_) trees_.emplace_back(parameter.weight.numel());
}

std::vector<std::pair<std::string, at::Tensor>> ReluL1Sae::buffers() {
  return {{"tokens_since_fired", firing_.tokens_since_fired()}, {"last_l0", last_l0_}};
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
  is_sparse_ = last_l0_.item<double>() <= kSparseShare * static_cast<double>(n_latents_);
  firing_.begin_step();
  if (config_.is_bricken()) return;
  kernels::row_norms(kExec, n_latents_, d_in_, parameters_[kWDec].weight.const_data_ptr<float>(),
                     decoder_norms_.mutable_data_ptr<float>());
}

void ReluL1Sae::forward(const std::vector<at::Tensor>& lanes, comm::Communicator& comm) {
  check_lanes(lanes);
  sums_ = lane_tree_sum(is_sparse_ ? forward_sparse(lanes) : forward_dense(lanes));
  // A pre-activation that is not a number is left out of a sparse step: the loss has to tell.
  if (not_numbers_ > 0) sums_[kErrorSquares] = std::numeric_limits<double>::quiet_NaN();
  comm.all_reduce_sum(std::span<double>(sums_), "sae." + config_.name + ".forward");
  THRESHER_CHECK(sums_[kTokens] == static_cast<double>(info_.batch_tokens),
                 "the lanes of all ranks hold batch_tokens rows");
}

std::vector<std::vector<double>> ReluL1Sae::forward_dense(const std::vector<at::Tensor>& lanes) {
  std::vector<std::vector<double>> lane_sums;
  not_numbers_ = 0;
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    ReluL1Lane& lane = lanes_[i];
    // A copy of its own: products may round differently for another memory alignment, and a lane
    // must have the same bits wherever its rows lay in a batch.
    if (!lane.x.defined()) lane.x = at::empty({0}, lanes[i].options());
    lane.x.resize_(lanes[i].sizes());
    if (config_.is_bricken()) {
      at::sub_out(lane.x, lanes[i], parameters_[kBDec].weight);
    } else {
      lane.x.copy_(lanes[i]);
    }
    relu_l1_forward(weights(), lane);
    firing_.fire_dense(lane.latent_acts);
    const std::int64_t n_active = at::count_nonzero(lane.latent_acts).item<std::int64_t>();
    lane_sums.push_back(sums_of(lane.x, lane.error, n_active));
    const std::vector<double> latent_sums = column_sums(lane.latent_acts);
    lane_sums.back().insert(lane_sums.back().end(), latent_sums.begin(), latent_sums.end());
  }
  return lane_sums;
}

std::vector<std::vector<double>> ReluL1Sae::forward_sparse(const std::vector<at::Tensor>& lanes) {
  const at::Tensor none;
  sparse_.take_inputs(lanes, config_.is_bricken() ? parameters_[kBDec].weight : none);
  not_numbers_ =
      encode_select_.above(sparse_.product(parameters_[kWEnc].weight, parameters_[kBEnc].weight),
                           std::numeric_limits<float>::denorm_min(), selected_);
  sparse_.take_pairs(selected_, nullptr);
  std::vector<at::Tensor> inputs;
  for (const SparseLanes::Lane& lane : sparse_.lanes()) inputs.push_back(lane.inputs);
  sparse_.reconstruct(inputs, parameters_[kWDec].weight,
                      config_.is_bricken() ? none : parameters_[kBDec].weight);
  std::vector<std::vector<double>> lane_sums;
  row_penalties_.assign(lanes.size(), {});
  for (std::size_t l = 0; l < lanes.size(); ++l) {
    const SparseLanes::Lane& lane = sparse_.lanes()[l];
    std::vector<double> latent_sums(static_cast<std::size_t>(n_latents_), 0.0);
    for (std::int64_t r = 0; r < lane.rows; ++r) {
      double penalty = 0;
      for (std::int64_t p = lane.row_offsets[r]; p < lane.row_offsets[r + 1]; ++p) {
        const auto value = static_cast<double>(lane.values[p]);
        penalty += value;
        latent_sums[static_cast<std::size_t>(lane.indices[p])] += value;
        firing_.fire(lane.indices[p]);
      }
      row_penalties_[l].push_back(penalty);
    }
    lane_sums.push_back(
        sums_of(lane.inputs, lane.error(), static_cast<std::int64_t>(lane.n_main())));
    lane_sums.back().insert(lane_sums.back().end(), latent_sums.begin(), latent_sums.end());
  }
  return lane_sums;
}

void ReluL1Sae::backward() {
  for (kernels::LaneTree& tree : trees_) tree.clear();
  if (is_sparse_) {
    backward_sparse();
  } else {
    backward_dense();
  }
}

void ReluL1Sae::backward_dense() {
  for (const ReluL1Lane& lane : lanes_) {
    relu_l1_backward(weights(), lane, static_cast<double>(info_.batch_tokens), l1_,
                     lane_gradients_);
    trees_[kWEnc].add(values_of(lane_gradients_.W_enc));
    trees_[kBEnc].add(narrowed(lane_gradients_.b_enc));
    trees_[kWDec].add(values_of(lane_gradients_.W_dec));
    trees_[kBDec].add(narrowed(lane_gradients_.b_dec));
  }
  for (std::size_t p = 0; p < parameters_.size(); ++p) take_sum(trees_[p], parameters_[p].gradient);
}

void ReluL1Sae::backward_sparse() {
  const auto tokens = static_cast<double>(info_.batch_tokens);
  const float* norms = decoder_norms_.const_data_ptr<float>();
  for (SparseLanes::Lane& lane : sparse_.lanes()) {
    // The gradient of the reconstruction is the error times a factor, which goes into the pairs.
    const double factor = -2 / tokens;
    for (std::size_t p = 0; p < lane.values.size(); ++p) {
      const double norm = config_.is_bricken() ? 1 : static_cast<double>(norms[lane.indices[p]]);
      lane.value_gradients[p] = static_cast<float>(
          factor * static_cast<double>(lane.value_gradients[p]) + l1_ / tokens * norm);
    }
    scale_values(lane.values, factor);
    std::vector<double> b_dec = column_sums(lane.error());
    for (double& sum : b_dec) sum *= factor;
    trees_[kBDec].add(narrowed(b_dec));
  }
  sparse_.accumulate(parameters_[kWDec].gradient, parameters_[kWEnc].gradient,
                     parameters_[kBEnc].gradient);
  take_sum(trees_[kBDec], parameters_[kBDec].gradient);
}

const at::Tensor& ReluL1Sae::lane_inputs(std::size_t lane) const {
  return is_sparse_ ? sparse_.lanes()[lane].inputs : lanes_[lane].x;
}

at::Tensor ReluL1Sae::lane_error(std::size_t lane) const {
  return is_sparse_ ? sparse_.lanes()[lane].error() : lanes_[lane].error;
}

void ReluL1Sae::finish_gradients() {
  if (std::isnan(sums_[kErrorSquares])) parameters_[kBDec].gradient.fill_(sums_[kErrorSquares]);
  if (config_.is_bricken()) {
    relu_l1_input_gradient(weights(), parameters_[kBEnc].gradient, parameters_[kBDec].gradient);
    return;
  }
  const std::vector<double> latent_sums(sums_.begin() + static_cast<std::ptrdiff_t>(kSums) + d_in_,
                                        sums_.end());
  relu_l1_norm_gradient(weights(), latent_sums, static_cast<double>(info_.batch_tokens), l1_,
                        parameters_[kWDec].gradient);
}

Json ReluL1Sae::finish_step(comm::Communicator& comm) {
  last_l0_.fill_(sums_[kActive] / sums_[kTokens]);
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
  const auto x_sums =
      std::span<const double>(sums_).subspan(kSums, static_cast<std::size_t>(d_in_));
  const float* norms = decoder_norms_.const_data_ptr<float>();  // as they were before the step
  for (std::int64_t i = 0; i < n_latents_; ++i) {
    const double norm = config_.is_bricken() ? 1 : static_cast<double>(norms[i]);
    penalty += sums_[kSums + static_cast<std::size_t>(d_in_ + i)] * norm;
  }
  const double reconstruction_loss = sums_[kErrorSquares] / tokens;
  const double sparsity_loss = l1_ * penalty / tokens;
  Json json = Json::object(
      {{"loss", reconstruction_loss + sparsity_loss},
       {"reconstruction_loss", reconstruction_loss},
       {"sparsity_loss", sparsity_loss},
       {"l1_coefficient", l1_},
       {"batch_fvu", batch_fvu(sums_[kErrorSquares], sums_[kInputSquares], x_sums, tokens)},
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
