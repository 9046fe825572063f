#include "sae/device_topk_sae.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "comm/communicator.h"
#include "core/error.h"
#include "kernels/bfloat16.h"
#include "kernels/column_sums.h"
#include "kernels/decoder_norm.h"
#include "kernels/encode_topk.h"
#include "kernels/mixed_precision.h"
#include "kernels/sparse_decode.h"
#include "sae/exec.h"
#include "sae/topk_common.h"
#include "sae/topk_sae.h"

namespace thresher::sae {
namespace {

enum : int { kWEnc, kBEnc, kWDec, kBDec };

// Places in sums_; the column sums of x and of the error follow.
enum : int { kTokens, kErrorSquares, kInputSquares, kActive, kAuxErrorSquares, kSums };

// Places in figures_, what the host is told of a step.
enum : int { kFigureVariance = kSums, kFigureAuxDenominator, kFigureDead, kFigures };

/// A tensor of `shape` in place of another of the same type, kept where it fits.
void fit(at::Tensor& tensor, at::IntArrayRef shape, const at::TensorOptions& options) {
  if (!tensor.defined() || tensor.sizes() != shape) tensor = at::empty(shape, options);
}

std::uint16_t* bfloat16_data(const at::Tensor& tensor) {
  return static_cast<std::uint16_t*>(tensor.data_ptr());
}

}  // namespace

DeviceTopKSae::DeviceTopKSae(const TopKConfig& config, std::int64_t d_in,
                             const TrainingPlace& place)
    : config_(config),
      place_(place),
      options_(at::TensorOptions(at::kFloat)
                   .device(place.device == Device::kCuda ? at::kCUDA : at::kCPU)),
      k_(config.k_at(0)),
      aux_k_(checked_aux_k(config, d_in)) {
  d_in_ = d_in;
  n_latents_ = config.latents(d_in);
  parameters_ = topk_parameters(n_latents_, d_in, place.device);
  if (place.has_bfloat16_operands) {
    for (const int matrix : {kWEnc, kWDec}) {
      parameters_[matrix].bfloat16 = at::zeros_like(weight(matrix), at::kBFloat16);
    }
  }
  rounded_versions_.assign(parameters_.size(), -1);
  mean_squared_input_ = at::full({1}, static_cast<double>(d_in), at::kDouble);
  tokens_since_fired_ = at::zeros({n_latents_}, options_.dtype(at::kLong));
  not_numbers_ = at::zeros({1}, options_.dtype(at::kLong));
  sums_ = at::zeros({kSums + 2 * d_in}, options_.dtype(at::kDouble));
  figures_ = at::zeros({kFigures}, options_.dtype(at::kDouble));
  host_figures_ = at::zeros(
      {kFigures}, at::TensorOptions(at::kDouble).pinned_memory(options_.device().is_cuda()));
}

std::vector<std::pair<std::string, at::Tensor>> DeviceTopKSae::buffers() {
  next_dead_.reset();  // whoever holds the tensors may write into them
  return {{"tokens_since_fired", tokens_since_fired_}, {"mean_squared_input", mean_squared_input_}};
}

void DeviceTopKSae::initialise(std::uint64_t seed, const at::Tensor& sample) {
  // The weights that a training on the CPU starts from.
  TopKSae on_cpu(config_, d_in_);
  on_cpu.initialise(seed, sample.to(at::kCPU));
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].weight.copy_(on_cpu.parameters()[i].weight);
  }
  for (const auto& [name, buffer] : on_cpu.buffers()) {
    if (name == "mean_squared_input") mean_squared_input_.copy_(buffer);
  }
  tokens_since_fired_.zero_();
  next_dead_.reset();
}

void DeviceTopKSae::begin_step(const StepInfo& info) {
  info_ = info;
  k_ = config_.k_at(info.tokens_before);
  dead_mask_ = tokens_since_fired_.ge(info.dead_window_tokens);
  const bool is_known = next_dead_ && next_dead_->second == info.dead_window_tokens;
  n_dead_ = is_known ? next_dead_->first : dead_mask_.sum().item<std::int64_t>();
  aux_k_now_ = config_.aux_coefficient > 0 ? std::min(aux_k_, n_dead_) : 0;
}

void DeviceTopKSae::make_room(std::int64_t rows) {
  rows_ = rows;
  fit(inputs_, {rows, d_in_}, options_);
  if (place_.has_bfloat16_operands) {
    fit(rounded_inputs_, {rows, d_in_}, options_.dtype(at::kBFloat16));
    fit(rounded_residuals_, {sparse_rows(), d_in_}, options_.dtype(at::kBFloat16));
  }
  fit(values_, {n_slots()}, options_);
  fit(value_gradients_, {n_slots()}, options_);
  fit(indices_, {n_slots()}, options_.dtype(at::kInt));
  fit(residuals_, {sparse_rows(), d_in_}, options_);
  fit(offsets_, {n_latents_ + 1}, options_.dtype(at::kLong));
  fit(pair_rows_, {n_slots()}, options_.dtype(at::kInt));
  fit(pair_slots_, {n_slots()}, options_.dtype(at::kInt));
  if (offsets_rows_ == rows && offsets_k_ == k_ && offsets_aux_k_ == aux_k_now_) return;
  const at::TensorOptions whole = options_.dtype(at::kLong);
  row_offsets_ = at::arange(0, rows + 1, whole) * k_;
  if (has_aux()) {
    const at::Tensor second = at::arange(1, rows + 1, whole) * aux_k_now_ + rows * k_;
    row_offsets_ = at::cat({row_offsets_, second});
  }
  offsets_rows_ = rows;
  offsets_k_ = k_;
  offsets_aux_k_ = aux_k_now_;
}

void DeviceTopKSae::refresh_bfloat16() {
  // The update writes both and counts no version; whatever else changes the weights does.
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = parameters_[i];
    if (!parameter.bfloat16.defined()) continue;
    const auto version = static_cast<std::int64_t>(parameter.weight._version());
    if (version == rounded_versions_[i]) continue;
    parameter.bfloat16.copy_(parameter.weight);
    rounded_versions_[i] = version;
  }
}

void DeviceTopKSae::encode(const at::Tensor& x) {
  refresh_bfloat16();
  const bool is_rounded = place_.has_bfloat16_operands;
  const kernels::Exec exec = exec_of(x);
  kernels::centre_rows(exec, rows_, d_in_, x.const_data_ptr<float>(),
                       weight(kBDec).const_data_ptr<float>(), inputs_.mutable_data_ptr<float>(),
                       is_rounded ? bfloat16_data(rounded_inputs_) : nullptr);
  kernels::EncoderOperands operands;
  operands.rows = rows_;
  operands.d = d_in_;
  operands.n_latents = n_latents_;
  operands.type = is_rounded ? kernels::OperandType::kBFloat16 : kernels::OperandType::kFloat32;
  operands.x = is_rounded ? rounded_inputs_.data_ptr() : inputs_.data_ptr();
  operands.W_enc = is_rounded ? parameters_[kWEnc].bfloat16.data_ptr() : weight(kWEnc).data_ptr();
  operands.b_enc = weight(kBEnc).const_data_ptr<float>();
  auto* values = values_.mutable_data_ptr<float>();
  auto* indices = indices_.mutable_data_ptr<std::int32_t>();
  const kernels::TopKSlots main{k_, values, indices};
  const kernels::TopKSlots aux{aux_k_now_, values + rows_ * k_, indices + rows_ * k_};
  const auto* mask = static_cast<const std::uint8_t*>(dead_mask_.data_ptr());
  not_numbers_.zero_();
  kernels::encode_topk(exec, operands, main, has_aux() ? mask : nullptr, has_aux() ? &aux : nullptr,
                       not_numbers_.mutable_data_ptr<std::int64_t>());
  values_.relu_();
  kernels::sort_pairs_by_latent(
      exec, sparse_rows(), n_latents_, n_slots(), row_offsets_.const_data_ptr<std::int64_t>(),
      indices, values, offsets_.mutable_data_ptr<std::int64_t>(),
      pair_rows_.mutable_data_ptr<std::int32_t>(), pair_slots_.mutable_data_ptr<std::int32_t>());
}

void DeviceTopKSae::reconstruct(const at::Tensor& x) {
  const kernels::Exec exec = exec_of(x);
  const std::int64_t* row_offsets = row_offsets_.const_data_ptr<std::int64_t>();
  const std::int32_t* indices = indices_.const_data_ptr<std::int32_t>();
  const float* values = values_.const_data_ptr<float>();
  float* dots = value_gradients_.mutable_data_ptr<float>();
  float* residuals = residuals_.mutable_data_ptr<float>();
  /// Residuals [first, first + rows) of what stands in the slots of these rows.
  const auto subtract = [&](std::int64_t first, const float* target, const float* bias) {
    float* out = residuals + first * d_in_;
    if (place_.has_bfloat16_operands) {
      kernels::sparse_residuals(exec, rows_, d_in_, row_offsets + first, indices, values,
                                bfloat16_data(parameters_[kWDec].bfloat16), bias, target, out,
                                bfloat16_data(rounded_residuals_) + first * d_in_, dots);
    } else {
      kernels::sparse_residuals(exec, rows_, d_in_, row_offsets + first, indices, values,
                                weight(kWDec).const_data_ptr<float>(), bias, target, out, dots);
    }
  };
  subtract(0, x.const_data_ptr<float>(), weight(kBDec).const_data_ptr<float>());
  if (has_aux()) subtract(rows_, residuals, nullptr);
}

void DeviceTopKSae::add_up(const at::Tensor& x) {
  const kernels::Exec exec = exec_of(x);
  auto* sums = sums_.mutable_data_ptr<double>();
  const float* error = residuals_.const_data_ptr<float>();
  sums_.zero_();
  sum_at(kTokens).fill_(static_cast<double>(rows_));
  kernels::sum_of_squares(exec, rows_, d_in_, error, sums + kErrorSquares);
  kernels::sum_of_squares(exec, rows_, d_in_, x.const_data_ptr<float>(), sums + kInputSquares);
  if (has_aux()) {
    kernels::sum_of_squares(exec, rows_, d_in_, error + rows_ * d_in_, sums + kAuxErrorSquares);
  }
  kernels::column_sums_on_device(exec, rows_, d_in_, nullptr, x.const_data_ptr<float>(),
                                 sums + kSums);
  kernels::column_sums_on_device(exec, rows_, d_in_, nullptr, error, sums + kSums + d_in_);
  local_error_sums_ = sums_.narrow(0, kSums + d_in_, d_in_).clone();
  const at::Tensor is_active = values_.narrow(0, 0, rows_ * k_).gt(0);
  sum_at(kActive).copy_(is_active.sum());
  // A pre-activation that is not a number is never selected: the loss has to tell.
  sum_at(kErrorSquares)
      .masked_fill_(not_numbers_.select(0, 0).gt(0), std::numeric_limits<double>::quiet_NaN());
  fired_ = at::zeros({n_latents_}, options_.dtype(at::kLong));
  fired_.scatter_add_(0, indices_.narrow(0, 0, rows_ * k_).to(at::kLong), is_active.to(at::kLong));
}

void DeviceTopKSae::forward(const std::vector<at::Tensor>& lanes, comm::Communicator& comm) {
  check_lanes(lanes);
  const at::Tensor x = lanes.size() == 1 ? lanes[0] : at::cat(lanes);
  make_room(x.size(0));
  encode(x);
  reconstruct(x);
  add_up(x);
  comm.all_reduce_sum_on_device(device_values(sums_), "sae." + config_.name + ".forward");
  comm.all_reduce_sum_on_device(device_values(fired_), "sae." + config_.name + ".fired");
  find_aux_denominator();
}

void DeviceTopKSae::find_aux_denominator() {
  const auto tokens = static_cast<double>(info_.batch_tokens);
  const at::Tensor squares = sum_at(kErrorSquares);
  const at::Tensor mean_square = sums_.narrow(0, kSums + d_in_, d_in_).square().sum() / tokens;
  const at::Tensor varied = squares - mean_square;
  aux_denominator_ = varied.masked_fill(varied.le(squares * kNoVariance), 0.0);
}

void DeviceTopKSae::backward() {
  // The gradient of a reconstruction is its residual times a factor. The factor goes into the
  // pairs, which are fewer.
  const double tokens = static_cast<double>(info_.batch_tokens);
  const double main_factor = -2 / (tokens * mean_squared_input());
  const at::Tensor aux_factor =
      at::where(aux_denominator_.gt(0),
                -2 * aux_weight(config_, n_dead_, aux_k_) / aux_denominator_,
                at::zeros_like(aux_denominator_))
          .to(at::kFloat);
  for (at::Tensor* pairs : {&values_, &value_gradients_}) {
    pairs->narrow(0, 0, rows_ * k_).mul_(main_factor);
    if (has_aux()) pairs->narrow(0, rows_ * k_, rows_ * aux_k_now_).mul_(aux_factor);
  }
  accumulate();
  gradient(kBDec).copy_(local_error_sums_ * main_factor);
}

void DeviceTopKSae::accumulate() {
  const kernels::Exec exec = exec_of(values_);
  const std::int64_t* offsets = offsets_.const_data_ptr<std::int64_t>();
  const std::int32_t* pair_rows = pair_rows_.const_data_ptr<std::int32_t>();
  const std::int32_t* pair_slots = pair_slots_.const_data_ptr<std::int32_t>();
  const float* values = values_.const_data_ptr<float>();
  const float* value_gradients = value_gradients_.const_data_ptr<float>();
  float* W_dec = gradient(kWDec).mutable_data_ptr<float>();
  float* W_enc = gradient(kWEnc).mutable_data_ptr<float>();
  float* b_enc = gradient(kBEnc).mutable_data_ptr<float>();
  if (place_.has_bfloat16_operands) {
    const kernels::MixedPairs pairs{offsets,
                                    pair_rows,
                                    pair_slots,
                                    values,
                                    value_gradients,
                                    bfloat16_data(rounded_residuals_),
                                    bfloat16_data(rounded_inputs_),
                                    rows_};
    kernels::accumulate_gradients(exec, n_latents_, d_in_, pairs, W_dec, W_enc, b_enc);
  } else {
    const kernels::LatentPairs lane{offsets,
                                    pair_rows,
                                    pair_slots,
                                    values,
                                    value_gradients,
                                    residuals_.const_data_ptr<float>(),
                                    inputs_.const_data_ptr<float>(),
                                    rows_};
    kernels::accumulate_gradients(exec, n_latents_, d_in_, 1, &lane, W_dec, W_enc, b_enc);
  }
}

void DeviceTopKSae::finish_gradients() {
  // b_dec also stands in the encoder's input, x - b_dec.
  at::Tensor through_encoder = at::empty({d_in_}, options_.dtype(at::kDouble));
  kernels::column_sums_on_device(
      exec_of(values_), n_latents_, d_in_, gradient(kBEnc).const_data_ptr<float>(),
      weight(kWEnc).const_data_ptr<float>(), through_encoder.mutable_data_ptr<double>());
  at::Tensor& b_dec = gradient(kBDec);
  b_dec.copy_(b_dec.to(at::kDouble) - through_encoder);
  const at::Tensor squares = sum_at(kErrorSquares);
  b_dec.masked_fill_(squares.isnan(), std::numeric_limits<float>::quiet_NaN());
  prepare_firing();
  enqueue_figures();
}

void DeviceTopKSae::prepare_firing() {
  next_tokens_since_fired_ =
      (tokens_since_fired_ + info_.batch_tokens).masked_fill_(fired_.gt(0), 0);
}

void DeviceTopKSae::enqueue_figures() {
  const auto tokens = static_cast<double>(info_.batch_tokens);
  const at::Tensor mean_square = sums_.narrow(0, kSums, d_in_).square().sum() / tokens;
  figures_.narrow(0, 0, kSums).copy_(sums_.narrow(0, 0, kSums));
  figures_.select(0, kFigureVariance).copy_(sum_at(kInputSquares) - mean_square);
  figures_.select(0, kFigureAuxDenominator).copy_(aux_denominator_);
  figures_.select(0, kFigureDead)
      .copy_(next_tokens_since_fired_.ge(info_.dead_window_tokens).sum());
  host_figures_.copy_(figures_, /*non_blocking=*/true);
}

Json DeviceTopKSae::finish_step(comm::Communicator& comm) {
  const kernels::Exec exec = exec_of(figures_);
  comm.wait_for_device(exec.device, exec.stream, "sae." + config_.name + ".figures");
  const auto* figure = host_figures_.const_data_ptr<double>();
  const auto tokens = static_cast<double>(info_.batch_tokens);
  THRESHER_CHECK(figure[kTokens] == tokens, "the lanes of all ranks hold batch_tokens rows");
  tokens_since_fired_.copy_(next_tokens_since_fired_);
  const auto n_dead = static_cast<std::int64_t>(figure[kFigureDead]);
  next_dead_ = {n_dead, info_.dead_window_tokens};

  const double reconstruction_loss = figure[kErrorSquares] / (tokens * mean_squared_input());
  double aux_loss = 0;
  if (has_aux() && figure[kFigureAuxDenominator] > 0) {
    aux_loss = aux_weight(config_, n_dead_, aux_k_) * figure[kAuxErrorSquares] /
               figure[kFigureAuxDenominator];
  }
  Json figures = Json::object({{"loss", reconstruction_loss + aux_loss},
                               {"reconstruction_loss", reconstruction_loss},
                               {"aux_loss", aux_loss},
                               {"batch_fvu", figure[kErrorSquares] / figure[kFigureVariance]},
                               {"l0", figure[kActive] / tokens},
                               {"dead_latents", n_dead}});
  if (config_.k_start) figures["k"] = k_;
  return figures;
}

InferenceSae DeviceTopKSae::to_inference(const InputTransform& transform) const {
  return export_topk(config_, parameters_, transform);
}

}  // namespace thresher::sae
