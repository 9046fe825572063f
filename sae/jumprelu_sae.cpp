#include "sae/jumprelu_sae.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "core/error.h"
#include "kernels/decoder_norm.h"
#include "kernels/sparse_decode.h"
#include "sae/lane_sums.h"

namespace thresher::sae {
namespace {

constexpr kernels::Exec kExec{};

}  // namespace

JumpReluSae::JumpReluSae(const JumpReluConfig& config, std::int64_t d_in,
                         const JumpReluLimits& limits)
    : config_(config),
      limits_(limits),
      firing_(config.latents(d_in)),
      b_dec_tree_(d_in),
      threshold_tree_(config.latents(d_in)),
      W_dec_tree_(config.latents(d_in) * d_in),
      W_enc_tree_(config.latents(d_in) * d_in),
      b_enc_tree_(config.latents(d_in)) {
  d_in_ = d_in;
  n_latents_ = config.latents(d_in);
  if (config.is_anthropic() && config.initial_l0_of(n_latents_) > n_latents_) {
    throw ConfigError(fmt::format("sae {}: initial_l0 {} is above the dictionary size {}",
                                  config.name, *config.initial_l0, n_latents_),
                      fmt::format("1 <= initial_l0 <= {}", n_latents_));
  }
  if (config.recipe == "target_l0" && config.target_l0 > static_cast<double>(n_latents_)) {
    throw ConfigError(fmt::format("sae {}: target_l0 {} is above the dictionary size {}",
                                  config.name, config.target_l0, n_latents_),
                      fmt::format("0 < target_l0 <= {}", n_latents_));
  }
  const auto zeros = [](at::IntArrayRef shape) { return at::zeros(shape, at::kFloat); };
  parameters_ = {
      {"W_enc", zeros({n_latents_, d_in}).t(), zeros({n_latents_, d_in}).t(), 1},
      {"b_enc", zeros({n_latents_}), zeros({n_latents_}), 0},
      {"W_dec", zeros({n_latents_, d_in}), zeros({n_latents_, d_in}), 0, !config.is_anthropic()},
      {"b_dec", zeros({d_in}), zeros({d_in})},
      {config.has_log_threshold() ? "log_threshold" : "threshold", zeros({n_latents_}),
       zeros({n_latents_}), 0, false, config.threshold_learning_rate_factor},
  };
  inputs_ = zeros({0});
  errors_ = zeros({0});
}

std::vector<std::pair<std::string, at::Tensor>> JumpReluSae::buffers() {
  return {{"tokens_since_fired", firing_.tokens_since_fired()}};
}

std::vector<float> JumpReluSae::thresholds() const {
  const std::span<const float> values = values_of(weight(kThreshold));
  std::vector<float> out(values.begin(), values.end());
  if (!config_.has_log_threshold()) return out;
  for (float& value : out) value = static_cast<float>(std::exp(static_cast<double>(value)));
  return out;
}

void JumpReluSae::begin_step(const StepInfo& info) {
  info_ = info;
  formulas_ = {.n_tokens = static_cast<double>(info.batch_tokens),
               .bandwidth = config_.bandwidth,
               .is_anthropic = config_.is_anthropic(),
               .sparsity = config_.sparsity_at(info.tokens_before, info.total_tokens),
               .tanh_scale = config_.tanh_scale,
               .pre_act = config_.pre_act_coefficient};
  firing_.begin_step();
  for (kernels::LaneTree* tree :
       {&b_dec_tree_, &threshold_tree_, &W_dec_tree_, &W_enc_tree_, &b_enc_tree_}) {
    tree->clear();
  }
  thresholds_ = thresholds();
  bounds_.resize(thresholds_.size());
  for (std::size_t i = 0; i < bounds_.size(); ++i) {
    const double bound = static_cast<double>(thresholds_[i]) - 0.5 * config_.bandwidth;
    // Below the rounded bound, so that no pre-activation of the window is lost.
    bounds_[i] = std::nextafter(static_cast<float>(bound), -std::numeric_limits<float>::infinity());
  }
  if (config_.is_anthropic()) {
    norms_.resize(static_cast<std::size_t>(n_latents_));
    kernels::row_norms(kExec, n_latents_, d_in_, weight(kWDec).const_data_ptr<float>(),
                       norms_.data());
  }
  keeps_pairs_ = last_pairs_ >= 0 && last_pairs_ <= limits_.kept_pairs;
  if (keeps_pairs_) {  // and give their buffers back
    W_dec_tree_ = W_enc_tree_ = kernels::LaneTree(n_latents_ * d_in_);
  }
  n_pairs_ = not_numbers_ = 0;
}

void JumpReluSae::take_inputs(const std::vector<at::Tensor>& lanes) {
  std::int64_t rows = 0;
  for (const at::Tensor& x : lanes) rows += x.size(0);
  inputs_.resize_({rows, d_in_});
  errors_.resize_({rows, d_in_});
  chunks_.clear();
  std::int64_t first = 0;
  for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
    const std::int64_t lane_rows = lanes[lane].size(0);
    inputs_.narrow(0, first, lane_rows).copy_(lanes[lane]);
    std::int64_t parts = 1;
    while (parts < lane_rows &&
           (lane_rows + parts - 1) / parts * n_latents_ > limits_.chunk_pairs) {
      parts *= 2;
    }
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t begin = part * lane_rows / parts, end = (part + 1) * lane_rows / parts;
      chunks_.push_back({lane, first + begin, end - begin, {}, {}});
    }
    first += lane_rows;
  }
}

void JumpReluSae::forward(const std::vector<at::Tensor>& lanes, comm::Communicator& comm) {
  check_lanes(lanes);
  take_inputs(lanes);
  const std::size_t n_sums =
      kSums + static_cast<std::size_t>(d_in_ + (config_.is_anthropic() ? 2 * n_latents_ : 0));
  lane_sums_.assign(lanes.size(), std::vector<double>(n_sums, 0.0));
  if (keeps_pairs_) encode(0, inputs_.size(0));
  for (Chunk& chunk : chunks_) {
    if (!keeps_pairs_) encode(chunk.first_row, chunk.rows);
    reconstruct(chunk);
    sum_chunk(chunk);
  }
  last_pairs_ = n_pairs_;
  reduce_sums(comm);
}

void JumpReluSae::encode(std::int64_t first_row, std::int64_t rows) {
  pairs_first_row_ = first_row;
  not_numbers_ += encode_select_.above(
      {rows, d_in_, n_latents_, inputs_.const_data_ptr<float>() + first_row * d_in_,
       weight(kWEnc).const_data_ptr<float>(), weight(kBEnc).const_data_ptr<float>()},
      bounds_.data(), pairs_);
  const std::size_t n_pairs = pairs_.values.size();
  n_pairs_ += static_cast<std::int64_t>(n_pairs);
  acts_.resize(n_pairs);
  products_.resize(n_pairs);
  for (std::size_t slot = 0; slot < n_pairs; ++slot) {
    const auto latent = static_cast<std::size_t>(pairs_.indices[slot]);
    acts_[slot] = JumpReluFormulas::activation(pairs_.values[slot], thresholds_[latent]);
  }
}

void JumpReluSae::reconstruct(const Chunk& chunk) {
  kernels::sparse_residuals(kExec, chunk.rows, d_in_, row_offsets(chunk), pairs_.indices.data(),
                            acts_.data(), weight(kWDec).const_data_ptr<float>(),
                            weight(kBDec).const_data_ptr<float>(), rows_of(inputs_, chunk),
                            rows_of(errors_, chunk), products_.data());
  add_silent_products(chunk);
}

void JumpReluSae::add_silent_products(const Chunk& chunk) {
  // sparse_residuals passes by what has no activation, but in the window that has gradients too.
  silent_.row_offsets.assign(1, 0);
  silent_.indices.clear();
  silent_.slots.clear();
  const std::int64_t* offsets = row_offsets(chunk);
  for (std::int64_t r = 0; r < chunk.rows; ++r) {
    for (std::int64_t slot = offsets[r]; slot < offsets[r + 1]; ++slot) {
      const auto at = static_cast<std::size_t>(slot);
      const std::int32_t latent = pairs_.indices[at];
      if (acts_[at] != 0.0f) continue;
      if (!formulas_.in_window(pairs_.values[at], thresholds_[static_cast<std::size_t>(latent)])) {
        continue;
      }
      silent_.indices.push_back(latent);
      silent_.slots.push_back(slot);
    }
    silent_.row_offsets.push_back(static_cast<std::int64_t>(silent_.slots.size()));
  }
  silent_.products.resize(silent_.slots.size());
  kernels::sparse_decode_grad_values(
      kExec, chunk.rows, d_in_, silent_.row_offsets.data(), silent_.indices.data(),
      rows_of(errors_, chunk), weight(kWDec).const_data_ptr<float>(), silent_.products.data());
  for (std::size_t i = 0; i < silent_.slots.size(); ++i) {
    products_[static_cast<std::size_t>(silent_.slots[i])] = silent_.products[i];
  }
}

void JumpReluSae::sum_chunk(Chunk& chunk) {
  const at::Tensor x = inputs_.narrow(0, chunk.first_row, chunk.rows);
  const at::Tensor error = errors_.narrow(0, chunk.first_row, chunk.rows);
  std::vector<double>& sums = lane_sums_[chunk.lane];
  sums[kTokens] += static_cast<double>(chunk.rows);
  sums[kErrorSquares] += sum_of_squares(error);
  sums[kInputSquares] += sum_of_squares(x);
  chunk.error_sums = column_sums(error);
  const std::vector<double> x_sums = column_sums(x);
  for (std::size_t j = 0; j < x_sums.size(); ++j) sums[kSums + j] += x_sums[j];
  double* slopes = sums.data() + kSums + d_in_;
  double* excesses = slopes + n_latents_;
  const std::int64_t* offsets = row_offsets(chunk);
  for (std::int64_t slot = offsets[0]; slot < offsets[chunk.rows]; ++slot) {
    const std::int32_t latent = pairs_.indices[static_cast<std::size_t>(slot)];
    const float f = acts_[static_cast<std::size_t>(slot)];
    if (f > 0) {
      sums[kActive] += 1;
      firing_.fire(latent);
    }
    if (!config_.is_anthropic() || f == 0.0f) continue;
    const double norm = norm_of(latent);
    sums[kPenalty] += formulas_.penalty(f, norm);
    slopes[latent] += static_cast<double>(f) * formulas_.penalty_slope(f, norm);
    excesses[latent] +=
        static_cast<double>(f) - static_cast<double>(thresholds_[static_cast<std::size_t>(latent)]);
  }
}

void JumpReluSae::reduce_sums(comm::Communicator& comm) {
  sums_ = lane_tree_sum(std::move(lane_sums_));
  // A pre-activation that is not a number is in no pair: the loss has to tell.
  if (not_numbers_ > 0) sums_[kErrorSquares] = std::numeric_limits<double>::quiet_NaN();
  comm.all_reduce_sum(std::span<double>(sums_), "sae." + config_.name + ".forward");
  const double tokens = formulas_.n_tokens;
  THRESHER_CHECK(sums_[kTokens] == tokens, "the lanes of all ranks hold batch_tokens rows");
  formulas_.l0_slope = formulas_.sparsity;
  if (config_.recipe == "target_l0") {
    const double ratio = sums_[kActive] / tokens / config_.target_l0;
    formulas_.l0_slope *= 2 * (ratio - 1) / config_.target_l0;
  }
}

Json JumpReluSae::finish_step(comm::Communicator& comm) {
  // Below 0 a negative pre-activation would be an activation.
  if (!config_.has_log_threshold()) weight(kThreshold).clamp_min_(0);
  firing_.finish_step(comm, info_.batch_tokens, "sae." + config_.name + ".fired");
  const double tokens = formulas_.n_tokens;
  const double l0 = sums_[kActive] / tokens;
  const auto x_sums =
      std::span<const double>(sums_).subspan(kSums, static_cast<std::size_t>(d_in_));
  double penalty = l0;
  if (config_.is_anthropic()) penalty = sums_[kPenalty] / tokens;
  if (config_.recipe == "target_l0") penalty = std::pow(l0 / config_.target_l0 - 1, 2);
  const double reconstruction_loss = sums_[kErrorSquares] / tokens;
  const double sparsity_loss = formulas_.sparsity * penalty;
  double sum = 0;
  for (const float theta : thresholds_) sum += static_cast<double>(theta);
  const auto [least, most] = std::minmax_element(thresholds_.begin(), thresholds_.end());
  Json figures = Json::object({{"loss", reconstruction_loss + sparsity_loss + silent_loss_},
                               {"reconstruction_loss", reconstruction_loss},
                               {"sparsity_loss", sparsity_loss}});
  if (config_.is_anthropic()) figures["pre_act_loss"] = silent_loss_;
  figures["sparsity_coefficient"] = formulas_.sparsity;
  figures["batch_fvu"] = batch_fvu(sums_[kErrorSquares], sums_[kInputSquares], x_sums, tokens);
  figures["l0"] = l0;
  figures["dead_latents"] = firing_.count_dead(info_.dead_window_tokens);
  figures["threshold_mean"] = sum / static_cast<double>(n_latents_);
  figures["threshold_min"] = static_cast<double>(*least);
  figures["threshold_max"] = static_cast<double>(*most);
  return figures;
}

}  // namespace thresher::sae
