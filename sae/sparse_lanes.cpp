#include "sae/sparse_lanes.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace thresher::sae {
namespace {

constexpr kernels::Exec kExec{};

}  // namespace

at::Tensor SparseLanes::Lane::error() const { return residuals.narrow(0, 0, rows); }

at::Tensor SparseLanes::Lane::second_error() const { return residuals.narrow(0, rows, rows); }

SparseLanes::SparseLanes(std::int64_t d_in, std::int64_t n_latents)
    : d_in_(d_in), n_latents_(n_latents), inputs_(at::empty({0}, at::kFloat)) {}

void SparseLanes::take_inputs(const std::vector<at::Tensor>& lanes, const at::Tensor& shift) {
  std::int64_t rows = 0;
  for (const at::Tensor& x : lanes) rows += x.size(0);
  inputs_.resize_({rows, d_in_});
  lanes_.resize(lanes.size());
  std::int64_t first = 0;
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    Lane& lane = lanes_[i];
    lane.rows = lanes[i].size(0);
    lane.inputs = inputs_.narrow(0, first, lane.rows);
    first += lane.rows;
    if (shift.defined()) {
      at::sub_out(lane.inputs, lanes[i], shift);
    } else {
      lane.inputs.copy_(lanes[i]);
    }
  }
}

kernels::EncoderProduct SparseLanes::product(const at::Tensor& W_enc,
                                             const at::Tensor& b_enc) const {
  return {inputs_.size(0),
          d_in_,
          n_latents_,
          inputs_.const_data_ptr<float>(),
          W_enc.const_data_ptr<float>(),
          b_enc.const_data_ptr<float>()};
}

void SparseLanes::take_pairs(const kernels::SelectedPairs& main,
                             const kernels::SelectedPairs* second) {
  std::int64_t first = 0;
  for (Lane& lane : lanes_) {
    lane.row_offsets.assign(1, 0);
    lane.values.clear();
    lane.indices.clear();
    take_pairs(lane, first, main);
    if (second != nullptr) take_pairs(lane, first, *second);
    for (float& value : lane.values) value = std::max(value, 0.0f);
    first += lane.rows;
    sort(lane);
  }
}

void SparseLanes::sort(Lane& lane) {
  lane.offsets.resize(static_cast<std::size_t>(n_latents_ + 1));
  lane.pair_rows.resize(lane.values.size());
  lane.pair_slots.resize(lane.values.size());
  kernels::sort_pairs_by_latent(static_cast<std::int64_t>(lane.row_offsets.size()) - 1, n_latents_,
                                lane.row_offsets.data(), lane.indices.data(), lane.values.data(),
                                lane.offsets.data(), lane.pair_rows.data(), lane.pair_slots.data());
}

void SparseLanes::take_pairs(Lane& lane, std::int64_t first_row,
                             const kernels::SelectedPairs& selected) {
  const std::int64_t* offsets = selected.row_offsets.data() + first_row;
  lane.values.insert(lane.values.end(), selected.values.begin() + offsets[0],
                     selected.values.begin() + offsets[lane.rows]);
  lane.indices.insert(lane.indices.end(), selected.indices.begin() + offsets[0],
                      selected.indices.begin() + offsets[lane.rows]);
  const std::int64_t before = lane.row_offsets.back() - offsets[0];
  for (std::int64_t r = 1; r <= lane.rows; ++r) lane.row_offsets.push_back(before + offsets[r]);
}

void SparseLanes::reconstruct(const std::vector<at::Tensor>& targets, const at::Tensor& W_dec,
                              const at::Tensor& b_dec) {
  const float* bias = b_dec.defined() ? b_dec.const_data_ptr<float>() : nullptr;
  const float* W = W_dec.const_data_ptr<float>();
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    Lane& lane = lanes_[i];
    const bool has_second = static_cast<std::int64_t>(lane.row_offsets.size()) > lane.rows + 1;
    if (!lane.residuals.defined()) lane.residuals = at::empty({0}, at::kFloat);
    lane.residuals.resize_({has_second ? 2 * lane.rows : lane.rows, d_in_});
    lane.value_gradients.resize(lane.values.size());
    float* error = lane.residuals.mutable_data_ptr<float>();
    kernels::sparse_residuals(kExec, lane.rows, d_in_, lane.row_offsets.data(), lane.indices.data(),
                              lane.values.data(), W, bias, targets[i].const_data_ptr<float>(),
                              error, lane.value_gradients.data());
    if (!has_second) continue;
    kernels::sparse_residuals(kExec, lane.rows, d_in_, lane.row_offsets.data() + lane.rows,
                              lane.indices.data(), lane.values.data(), W, nullptr, error,
                              error + lane.rows * d_in_, lane.value_gradients.data());
  }
}

std::vector<kernels::LatentPairs> SparseLanes::latent_pairs() const {
  std::vector<kernels::LatentPairs> lanes;
  for (const Lane& lane : lanes_) {
    lanes.push_back({lane.offsets.data(), lane.pair_rows.data(), lane.pair_slots.data(),
                     lane.values.data(), lane.value_gradients.data(),
                     lane.residuals.const_data_ptr<float>(), lane.inputs.const_data_ptr<float>(),
                     lane.rows});
  }
  return lanes;
}

void SparseLanes::accumulate(at::Tensor& W_dec, at::Tensor& W_enc, at::Tensor& b_enc) {
  const std::vector<kernels::LatentPairs> lanes = latent_pairs();
  kernels::accumulate_gradients(kExec, n_latents_, d_in_, static_cast<std::int64_t>(lanes.size()),
                                lanes.data(), W_dec.mutable_data_ptr<float>(),
                                W_enc.mutable_data_ptr<float>(), b_enc.mutable_data_ptr<float>());
}

void scale_values(std::span<float> values, double factor) {
  for (float& value : values) value = static_cast<float>(factor * static_cast<double>(value));
}

}  // namespace thresher::sae
