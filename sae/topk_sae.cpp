#include "sae/topk_sae.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "comm/communicator.h"
#include "core/error.h"
#include "core/random.h"
#include "kernels/column_sums.h"
#include "sae/initialisation.h"
#include "sae/lane_sums.h"
#include "sae/topk_common.h"

namespace thresher::sae {
namespace {

enum : int { kWEnc, kBEnc, kWDec, kBDec };

// Places in the sums of a lane; the columns of x and of the error follow.
enum : std::size_t { kTokens, kErrorSquares, kInputSquares, kActive, kAuxErrorSquares, kSums };

// The encoder's starting scale needs a mean norm, not the whole sample.
constexpr std::int64_t kScaleRows = 1024;

constexpr kernels::Exec kExec{};

}  // namespace

TopKSae::TopKSae(const TopKConfig& config, std::int64_t d_in)
    : config_(config),
      k_(config.k_at(0)),
      firing_(config.latents(d_in)),
      sparse_(d_in, config.latents(d_in)),
      b_dec_tree_(d_in) {
  d_in_ = d_in;
  n_latents_ = config.latents(d_in);
  aux_k_ = checked_aux_k(config, d_in);
  parameters_ = topk_parameters(n_latents_, d_in, Device::kCpu);
  mean_squared_input_ = at::full({1}, static_cast<double>(d_in), at::kDouble);
}

TopKSae::TopKSae(const BatchTopKConfig& config, std::int64_t d_in)
    : TopKSae(static_cast<const TopKConfig&>(config), d_in) {
  batch_config_ = config;
  threshold_sum_ = at::zeros({1}, at::kDouble);
  threshold_weight_ = at::zeros({1}, at::kDouble);
}

std::vector<std::pair<std::string, at::Tensor>> TopKSae::buffers() {
  std::vector<std::pair<std::string, at::Tensor>> buffers{
      {"tokens_since_fired", firing_.tokens_since_fired()},
      {"mean_squared_input", mean_squared_input_}};
  if (is_batch()) {
    buffers.emplace_back("threshold_sum", threshold_sum_);
    buffers.emplace_back("threshold_weight", threshold_weight_);
  }
  return buffers;
}

void TopKSae::initialise(std::uint64_t seed, const at::Tensor& sample) {
  const double square =
      config_.scale_inputs ? static_cast<double>(d_in_) : mean_squared_norm(sample);
  if (!(square > 0)) {
    throw ConfigError(fmt::format("sae {}: all sampled activations of {} are {}", config_.name,
                                  config_.hook_point, config_.centre_inputs ? "equal" : "zero"),
                      "activations that vary", "look at `thresher cache info`");
  }
  mean_squared_input_.fill_(square);
  fill_random_directions(weight(kWDec), 1, RandomStream(seed, "sae.topk.W_dec"));
  weight(kBEnc).zero_();
  weight(kBDec).copy_(initial_decoder_bias(config_.decoder_bias_init, sample));
  weight(kWEnc).copy_(weight(kWDec).t());

  // Without an encoder bias the reconstruction is linear in the encoder's scale, so one ratio makes
  // the norms equal.
  aux_k_now_ = 0;
  const at::Tensor x = sample.slice(0, 0, kScaleRows).contiguous();
  info_ = {};
  encode({x}, *comm::make_self_communicator());
  sparse_.reconstruct({x}, weight(kWDec), weight(kBDec));
  const SparseLanes::Lane& lane = sparse_.lanes()[0];
  double input_norms = 0, recon_norms = 0;
  for (std::int64_t r = 0; r < lane.rows; ++r) {
    input_norms += std::sqrt(sum_of_squares(lane.inputs[r]));
    recon_norms += std::sqrt(sum_of_squares(lane.inputs[r] - lane.residuals[r]));
  }
  const double ratio = recon_norms > 0 ? input_norms / recon_norms : 1;
  weight(kWEnc).mul_(ratio);
  if (!is_batch()) return;
  // The sample counts as a millionth of a batch, so that an untrained SAE has a threshold too.
  smallest_kept_ *= static_cast<float>(ratio);
  threshold_weight_.fill_(1e-6);
  threshold_sum_.fill_(1e-6 * static_cast<double>(smallest_kept_));
}

void TopKSae::begin_step(const StepInfo& info) {
  info_ = info;
  k_ = config_.k_at(info.tokens_before);
  firing_.begin_step();
  b_dec_tree_.clear();
  n_dead_ = firing_.mark_dead(info.dead_window_tokens, dead_mask_);
  aux_k_now_ = config_.aux_coefficient > 0 ? std::min(aux_k_, n_dead_) : 0;
  // Global numbers: every rank computes AuxK in the same way.
  is_aux_dense_ = n_dead_ <= kDenseAuxShare * aux_k_now_;
}

void TopKSae::forward(const std::vector<at::Tensor>& lanes, comm::Communicator& comm) {
  check_lanes(lanes);
  encode(lanes, comm);
  sparse_.reconstruct(lanes, weight(kWDec), weight(kBDec));
  std::vector<std::vector<double>> lane_sums;
  error_sums_.clear();
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    lane_sums.push_back(sum_lane(sparse_.lanes()[i], lanes[i]));
  }
  reduce_sums(std::move(lane_sums), comm);
}

std::vector<double> TopKSae::sum_lane(const SparseLanes::Lane& lane, const at::Tensor& x) {
  const at::Tensor error = lane.error();
  std::vector<double> sums(kSums, 0.0);
  sums[kTokens] = static_cast<double>(lane.rows);
  sums[kErrorSquares] = sum_of_squares(error);
  sums[kInputSquares] = sum_of_squares(x);
  if (has_aux_pairs()) sums[kAuxErrorSquares] = sum_of_squares(lane.second_error());
  for (std::size_t i = 0; i < lane.n_main(); ++i) {
    if (!(lane.values[i] > 0)) continue;
    sums[kActive] += 1;
    firing_.fire(lane.indices[i]);
  }
  const std::vector<double> x_sums = column_sums(x);
  error_sums_.push_back(column_sums(error));
  sums.insert(sums.end(), x_sums.begin(), x_sums.end());
  sums.insert(sums.end(), error_sums_.back().begin(), error_sums_.back().end());
  return sums;
}

void TopKSae::reduce_sums(std::vector<std::vector<double>> lane_sums, comm::Communicator& comm) {
  sums_ = lane_tree_sum(std::move(lane_sums));
  // A pre-activation that is not a number is never selected: the loss has to tell.
  if (not_numbers_ > 0) sums_[kErrorSquares] = std::numeric_limits<double>::quiet_NaN();
  comm.all_reduce_sum(std::span<double>(sums_), "sae." + config_.name + ".forward");
  const auto tokens = static_cast<double>(info_.batch_tokens);
  THRESHER_CHECK(sums_[kTokens] == tokens, "the lanes of all ranks hold batch_tokens rows");
  double mean_square = 0;  // |sum of e|^2 / N
  for (std::int64_t j = 0; j < d_in_; ++j) {
    const double sum = sums_[kSums + static_cast<std::size_t>(d_in_ + j)];
    mean_square += sum * sum / tokens;
  }
  aux_denominator_ = sums_[kErrorSquares] - mean_square;
  if (aux_denominator_ <= kNoVariance * sums_[kErrorSquares]) aux_denominator_ = 0;
}

void TopKSae::backward() {
  // The gradient of a reconstruction is its residual times a factor. The factor goes into the
  // pairs, which are fewer.
  const double tokens = static_cast<double>(info_.batch_tokens);
  const double V = mean_squared_input_.const_data_ptr<double>()[0];
  const double main_factor = -2 / (tokens * V);
  const double aux_factor =
      aux_denominator_ > 0 ? -2 * aux_weight(config_, n_dead_, aux_k_) / aux_denominator_ : 0;
  for (std::size_t i = 0; i < sparse_.lanes().size(); ++i) {
    SparseLanes::Lane& lane = sparse_.lanes()[i];
    for (std::vector<float>* pairs : {&lane.values, &lane.value_gradients}) {
      scale_values(lane.main(*pairs), main_factor);
      if (has_aux_pairs()) scale_values(lane.second(*pairs), aux_factor);
    }
    std::vector<float> b_dec;
    for (const double sum : error_sums_[i]) b_dec.push_back(static_cast<float>(main_factor * sum));
    b_dec_tree_.add(b_dec);
  }
  sparse_.accumulate(gradient(kWDec), gradient(kWEnc), gradient(kBEnc));
  if (has_dense_aux()) add_dense_aux(aux_factor);
  take_sum(b_dec_tree_, gradient(kBDec));
}

void TopKSae::add_dense_aux(double factor) {
  std::vector<std::int32_t> dead;
  for (std::size_t i = 0; i < dead_mask_.size(); ++i) {
    if (dead_mask_[i] != 0) dead.push_back(static_cast<std::int32_t>(i));
  }
  const std::vector<kernels::LatentPairs> lanes = sparse_.latent_pairs();
  aux_error_squares_ = dense_aux_.accumulate(
      {d_in_, aux_k_now_, dead, weight(kWEnc).const_data_ptr<float>(),
       weight(kBEnc).const_data_ptr<float>(), weight(kWDec).const_data_ptr<float>(),
       static_cast<float>(factor)},
      static_cast<std::int64_t>(lanes.size()), lanes.data(),
      gradient(kWDec).mutable_data_ptr<float>(), gradient(kWEnc).mutable_data_ptr<float>(),
      gradient(kBEnc).mutable_data_ptr<float>());
}

void TopKSae::finish_gradients() {
  // b_dec also stands in the encoder's input, x - b_dec.
  std::vector<double> through_encoder(static_cast<std::size_t>(d_in_));
  kernels::column_sums(kExec, n_latents_, d_in_, gradient(kBEnc).const_data_ptr<float>(),
                       weight(kWEnc).const_data_ptr<float>(), through_encoder.data());
  float* b_dec = gradient(kBDec).mutable_data_ptr<float>();
  for (std::int64_t j = 0; j < d_in_; ++j) {
    b_dec[j] = static_cast<float>(static_cast<double>(b_dec[j]) - through_encoder[j]);
  }
  if (std::isnan(sums_[kErrorSquares])) gradient(kBDec).fill_(sums_[kErrorSquares]);
}

Json TopKSae::finish_step(comm::Communicator& comm) {
  firing_.finish_step(comm, info_.batch_tokens, "sae." + config_.name + ".fired");
  if (has_dense_aux()) {
    std::vector<std::vector<double>> by_lane;
    for (const double squares : aux_error_squares_) by_lane.push_back({squares});
    std::vector<double> sum = lane_tree_sum(std::move(by_lane));
    comm.all_reduce_sum(std::span<double>(sum), "sae." + config_.name + ".aux");
    sums_[kAuxErrorSquares] = sum[0];
  }

  const auto tokens = static_cast<double>(info_.batch_tokens);
  const double V = mean_squared_input_.const_data_ptr<double>()[0];
  const double reconstruction_loss = sums_[kErrorSquares] / (tokens * V);
  double aux_loss = 0;
  if (has_aux() && aux_denominator_ > 0) {
    aux_loss = aux_weight(config_, n_dead_, aux_k_) * sums_[kAuxErrorSquares] / aux_denominator_;
  }
  const auto x_sums =
      std::span<const double>(sums_).subspan(kSums, static_cast<std::size_t>(d_in_));
  Json figures = Json::object(
      {{"loss", reconstruction_loss + aux_loss},
       {"reconstruction_loss", reconstruction_loss},
       {"aux_loss", aux_loss},
       {"batch_fvu", batch_fvu(sums_[kErrorSquares], sums_[kInputSquares], x_sums, tokens)},
       {"l0", sums_[kActive] / tokens},
       {"dead_latents", firing_.count_dead(info_.dead_window_tokens)}});
  if (config_.k_start) figures["k"] = k_;
  if (is_batch()) {
    update_threshold();
    figures["threshold"] = exported_threshold();
  }
  return figures;
}

InferenceSae TopKSae::to_inference(const InputTransform& transform) const {
  InferenceSae out = export_topk(config_, parameters_, transform);
  if (is_batch()) {
    out.architecture = "jumprelu";
    out.k = 0;
    out.threshold = at::full({n_latents_}, exported_threshold() / transform.scale, at::kFloat);
  }
  return out;
}

}  // namespace thresher::sae
