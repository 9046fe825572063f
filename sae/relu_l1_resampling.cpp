#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "core/error.h"
#include "core/random.h"
#include "sae/lane_sums.h"
#include "sae/relu_l1_sae.h"
#include "sae/resampling.h"

namespace thresher::sae {
namespace {

enum : int { kWEnc, kBEnc, kWDec };

/// Squares of the columns of W_enc [d, F], kept latent-major, in float64.
std::vector<double> column_squares(const at::Tensor& W_enc) {
  const std::int64_t d = W_enc.size(0);
  std::vector<double> squares(static_cast<std::size_t>(W_enc.size(1)), 0.0);
  const float* row = W_enc.const_data_ptr<float>();
  for (double& square : squares) {
    for (std::int64_t j = 0; j < d; ++j) {
      square += static_cast<double>(row[j]) * static_cast<double>(row[j]);
    }
    row += d;
  }
  return squares;
}

/// Mean norm of the encoder columns of latents that `is_dead` does not mark; 1, the norm of a
/// decoder row, when all are dead.
double mean_living_norm(const at::Tensor& W_enc, const std::vector<std::uint8_t>& is_dead) {
  const std::vector<double> squares = column_squares(W_enc);
  double sum = 0, count = 0;
  for (std::size_t i = 0; i < squares.size(); ++i) {
    if (is_dead[i] != 0) continue;
    sum += std::sqrt(squares[i]);
    count += 1;
  }
  return count > 0 ? sum / count : 1;
}

}  // namespace

double ReluL1Sae::row_penalty(std::size_t lane, std::int64_t row) const {
  if (is_sparse_) return row_penalties_[lane][static_cast<std::size_t>(row)];
  const float* acts = lanes_[lane].latent_acts.const_data_ptr<float>() + row * n_latents_;
  double penalty = 0;
  for (std::int64_t i = 0; i < n_latents_; ++i) penalty += static_cast<double>(acts[i]);
  return penalty;
}

std::vector<double> ReluL1Sae::candidate_weights(comm::Communicator& comm) const {
  std::vector<double> weights(static_cast<std::size_t>(info_.batch_tokens), 0.0);
  std::size_t at = static_cast<std::size_t>(first_local_row(comm));
  for (std::size_t l = 0; l < static_cast<std::size_t>(info_.n_local_lanes); ++l) {
    const at::Tensor errors = lane_error(l);
    const float* error = errors.const_data_ptr<float>();
    for (std::int64_t r = 0; r < errors.size(0); ++r, error += d_in_) {
      double loss = 0;
      for (std::int64_t j = 0; j < d_in_; ++j) {
        loss += static_cast<double>(error[j]) * static_cast<double>(error[j]);
      }
      loss += l1_ * row_penalty(l, r);
      weights[at++] = loss * loss;
    }
  }
  // Every element is 0 on all ranks but one, so the sum is exact.
  comm.all_reduce_sum(std::span<double>(weights), "sae." + config_.name + ".candidates");
  return weights;
}

at::Tensor ReluL1Sae::gather_inputs(const std::vector<std::int64_t>& rows,
                                    comm::Communicator& comm) const {
  at::Tensor inputs = at::zeros({static_cast<std::int64_t>(rows.size()), d_in_}, at::kFloat);
  float* out = inputs.mutable_data_ptr<float>();
  const std::int64_t first = first_local_row(comm);
  const std::int64_t lane_rows = lane_inputs(0).size(0);
  const std::int64_t n_local = info_.n_local_lanes * lane_rows;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::int64_t local = rows[i] - first;
    if (local < 0 || local >= n_local) continue;
    const at::Tensor& lane = lane_inputs(static_cast<std::size_t>(local / lane_rows));
    const float* x = lane.const_data_ptr<float>() + local % lane_rows * d_in_;
    // Adding 0 makes -0 into 0, as the sum over several ranks does.
    for (std::int64_t j = 0; j < d_in_; ++j) {
      out[static_cast<std::int64_t>(i) * d_in_ + j] = x[j] + 0.0F;
    }
  }
  comm.all_reduce_sum({out, static_cast<std::size_t>(inputs.numel())},
                      "sae." + config_.name + ".resampled");
  return inputs;
}

void ReluL1Sae::replace_latent(std::int64_t latent, const float* input, double encoder_norm) {
  double squares = 0;
  for (std::int64_t j = 0; j < d_in_; ++j) {
    squares += static_cast<double>(input[j]) * static_cast<double>(input[j]);
  }
  const double norm = std::sqrt(squares);
  float* W_enc = parameters_[kWEnc].weight.mutable_data_ptr<float>();
  float* W_dec = parameters_[kWDec].weight.mutable_data_ptr<float>() + latent * d_in_;
  for (std::int64_t j = 0; j < d_in_; ++j) {
    const double direction = static_cast<double>(input[j]) / norm;
    W_dec[j] = static_cast<float>(direction);
    W_enc[latent * d_in_ + j] = static_cast<float>(encoder_norm * direction);
  }
  parameters_[kBEnc].weight.mutable_data_ptr<float>()[latent] = 0;
}

void ReluL1Sae::resample(comm::Communicator& comm) {
  std::vector<std::uint8_t> is_dead;
  const std::int64_t n_dead = firing_.mark_dead(info_.dead_window_tokens, is_dead);
  if (n_dead == 0) return;
  std::vector<double> weights = candidate_weights(comm);
  const std::vector<std::int64_t> rows =
      draw_without_replacement(weights, n_dead, RandomStream(info_.seed, "sae.relu_l1.resample"),
                               static_cast<std::uint64_t>(info_.tokens_before));
  const at::Tensor inputs = gather_inputs(rows, comm);
  const double encoder_norm =
      config_.resample_encoder_norm * mean_living_norm(parameters_[kWEnc].weight, is_dead);
  std::int64_t latent = -1;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    do {
      ++latent;
    } while (is_dead[static_cast<std::size_t>(latent)] == 0);
    const float* input = inputs.const_data_ptr<float>() + static_cast<std::int64_t>(i) * d_in_;
    // A row that equals b_dec has no direction; the latent stays dead until the next time.
    if (std::all_of(input, input + d_in_, [](float value) { return value == 0; })) continue;
    replace_latent(latent, input, encoder_norm);
    firing_.revive(latent);
    replaced_.push_back(latent);
  }
}

}  // namespace thresher::sae
