// The backward half of a JumpReLU step.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "kernels/sparse_decode.h"
#include "sae/jumprelu_sae.h"
#include "sae/lane_sums.h"

namespace thresher::sae {
namespace {

constexpr kernels::Exec kExec{};

}  // namespace

void JumpReluSae::differentiate(Chunk& chunk) {
  const double factor = -2 / formulas_.n_tokens;
  std::vector<double> threshold_gradient(static_cast<std::size_t>(n_latents_), 0.0);
  const std::int64_t* offsets = row_offsets(chunk);
  for (std::int64_t place = offsets[0]; place < offsets[chunk.rows]; ++place) {
    const auto slot = static_cast<std::size_t>(place);
    const std::int32_t latent = pairs_.indices[slot];
    const auto [z, theta] =
        formulas_.gradient(pairs_.values[slot], thresholds_[static_cast<std::size_t>(latent)],
                           norm_of(latent), factor * static_cast<double>(products_[slot]));
    products_[slot] = static_cast<float>(z);
    threshold_gradient[static_cast<std::size_t>(latent)] += theta;
  }
  threshold_tree_.add(narrowed(threshold_gradient));
  errors_.narrow(0, chunk.first_row, chunk.rows).mul_(factor);
  std::vector<float> b_dec;
  for (const double sum : chunk.error_sums) b_dec.push_back(static_cast<float>(factor * sum));
  b_dec_tree_.add(b_dec);

  // By all pairs, because an activation of 0 may have a gradient.
  chunk.offsets.resize(static_cast<std::size_t>(n_latents_ + 1));
  kernels::sort_pairs_by_latent(chunk.rows, n_latents_, offsets, pairs_.indices.data(),
                                ones_.data(), chunk.offsets.data(), pair_rows_.data() + offsets[0],
                                pair_slots_.data() + offsets[0]);
}

void JumpReluSae::accumulate(std::size_t first_chunk, std::size_t n_chunks) {
  std::vector<kernels::LatentPairs> chunks;
  for (std::size_t c = first_chunk; c < first_chunk + n_chunks; ++c) {
    const Chunk& chunk = chunks_[c];
    const std::int64_t first_pair = row_offsets(chunk)[0];
    chunks.push_back({chunk.offsets.data(), pair_rows_.data() + first_pair,
                      pair_slots_.data() + first_pair, acts_.data(), products_.data(),
                      rows_of(errors_, chunk), rows_of(inputs_, chunk), chunk.rows});
  }
  kernels::accumulate_gradients(kExec, n_latents_, d_in_, static_cast<std::int64_t>(n_chunks),
                                chunks.data(), static_cast<float*>(gradient(kWDec).data_ptr()),
                                static_cast<float*>(gradient(kWEnc).data_ptr()),
                                static_cast<float*>(gradient(kBEnc).data_ptr()));
}

void JumpReluSae::backward() {
  for (std::size_t c = 0; c < chunks_.size(); ++c) {
    Chunk& chunk = chunks_[c];
    if (!keeps_pairs_) {
      encode(chunk.first_row, chunk.rows);
      reconstruct(chunk);
    }
    ones_.resize(acts_.size(), 1.0f);
    pair_rows_.resize(acts_.size());
    pair_slots_.resize(acts_.size());
    differentiate(chunk);
    if (keeps_pairs_) continue;
    accumulate(c, 1);
    W_dec_tree_.add(values_of(gradient(kWDec)));
    W_enc_tree_.add(values_of(gradient(kWEnc)));
    b_enc_tree_.add(values_of(gradient(kBEnc)));
  }
  if (keeps_pairs_) {
    accumulate(0, chunks_.size());
  } else {
    take_sum(W_dec_tree_, gradient(kWDec));
    take_sum(W_enc_tree_, gradient(kWEnc));
    take_sum(b_enc_tree_, gradient(kBEnc));
  }
  take_sum(b_dec_tree_, gradient(kBDec));
  take_sum(threshold_tree_, gradient(kThreshold));
}

void JumpReluSae::add_decoder_norm_gradient() {
  const std::vector<double> silent = silent_sums();
  const double* slopes = sums_.data() + kSums + d_in_;
  const float* row = weight(kWDec).const_data_ptr<float>();
  auto* out = static_cast<float*>(gradient(kWDec).data_ptr());
  silent_loss_ = 0;
  for (std::int64_t i = 0; i < n_latents_; ++i, row += d_in_, out += d_in_) {
    const double norm = norm_of(static_cast<std::int32_t>(i));
    const double below = config_.pre_act_coefficient * silent[static_cast<std::size_t>(i)];
    silent_loss_ += below * norm / formulas_.n_tokens;
    if (!(norm > 0)) continue;
    const double coefficient =
        (formulas_.sparsity * slopes[i] + below) / (formulas_.n_tokens * norm);
    for (std::int64_t j = 0; j < d_in_; ++j) {
      out[j] = static_cast<float>(static_cast<double>(out[j]) +
                                  coefficient * static_cast<double>(row[j]));
    }
  }
}

std::vector<double> JumpReluSae::silent_sums() const {
  const double* x_sums = sums_.data() + kSums;
  const double* excesses = x_sums + d_in_ + n_latents_;
  const float* row = weight(kWEnc).const_data_ptr<float>();
  const float* b_enc = weight(kBEnc).const_data_ptr<float>();
  std::vector<double> out;
  for (std::int64_t i = 0; i < n_latents_; ++i, row += d_in_) {
    double z_sum = formulas_.n_tokens * static_cast<double>(b_enc[i]);
    for (std::int64_t j = 0; j < d_in_; ++j) z_sum += x_sums[j] * static_cast<double>(row[j]);
    const double theta = static_cast<double>(thresholds_[static_cast<std::size_t>(i)]);
    out.push_back(formulas_.n_tokens * theta - z_sum + excesses[i]);
  }
  return out;
}

void JumpReluSae::add_silent_gradient() {
  // What a token below the threshold gives, for all tokens; those at or above have it taken back
  // (JumpReluFormulas::gradient).
  const double* x_sums = sums_.data() + kSums;
  auto* row = static_cast<float*>(gradient(kWEnc).data_ptr());
  auto* b_enc = static_cast<float*>(gradient(kBEnc).data_ptr());
  auto* theta = static_cast<float*>(gradient(kThreshold).data_ptr());
  for (std::int64_t i = 0; i < n_latents_; ++i, row += d_in_) {
    const double pull = config_.pre_act_coefficient * norm_of(static_cast<std::int32_t>(i));
    for (std::int64_t j = 0; j < d_in_; ++j) {
      row[j] =
          static_cast<float>(static_cast<double>(row[j]) - pull / formulas_.n_tokens * x_sums[j]);
    }
    b_enc[i] = static_cast<float>(static_cast<double>(b_enc[i]) - pull);
    theta[i] = static_cast<float>(static_cast<double>(theta[i]) + pull);
  }
}

void JumpReluSae::finish_gradients() {
  if (config_.is_anthropic()) {
    add_decoder_norm_gradient();
    if (config_.pre_act_coefficient > 0) add_silent_gradient();
  }
  if (config_.has_log_threshold()) {
    auto* theta = static_cast<float*>(gradient(kThreshold).data_ptr());
    for (std::size_t i = 0; i < thresholds_.size(); ++i) theta[i] *= thresholds_[i];
  }
  if (std::isnan(sums_[kErrorSquares])) gradient(kBDec).fill_(sums_[kErrorSquares]);
}

}  // namespace thresher::sae
