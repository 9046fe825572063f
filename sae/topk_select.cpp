#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <span>

#include "sae/batch_selection.h"
#include "sae/topk_sae.h"

namespace thresher::sae {
namespace {

enum : int { kWEnc, kBEnc, kWDec, kBDec };

// BatchTopK looks only at pre-activations above this part of what the last batch's smallest kept
// one was: too high costs a second product, too low more candidates.
constexpr float kGuess = 0.8f;
constexpr std::int64_t kGuessRows = 128;  // of the first batch, where there is no last one
constexpr float kLeastPositive = std::numeric_limits<float>::denorm_min();

/// Room for k pairs in each of `rows`.
kernels::TopKSlots slots_of(kernels::SelectedPairs& pairs, std::int64_t rows, std::int64_t k) {
  pairs.row_offsets.resize(static_cast<std::size_t>(rows + 1));
  for (std::int64_t r = 0; r <= rows; ++r) pairs.row_offsets[static_cast<std::size_t>(r)] = r * k;
  pairs.values.resize(static_cast<std::size_t>(rows * k));
  pairs.indices.resize(pairs.values.size());
  return {k, pairs.values.data(), pairs.indices.data()};
}

}  // namespace

void TopKSae::encode(const std::vector<at::Tensor>& lanes, comm::Communicator& comm) {
  sparse_.take_inputs(lanes, weight(kBDec));
  select(sparse_.product(weight(kWEnc), weight(kBEnc)), comm);
  sparse_.take_pairs(selected_, has_aux_pairs() ? &aux_selected_ : nullptr);
}

void TopKSae::select(const kernels::EncoderProduct& product, comm::Communicator& comm) {
  kernels::TopKSlots aux;
  if (has_aux_pairs()) aux = slots_of(aux_selected_, product.rows, aux_k_now_);
  const std::uint8_t* mask = has_aux_pairs() ? dead_mask_.data() : nullptr;
  const kernels::TopKSlots* aux_slots = has_aux_pairs() ? &aux : nullptr;
  if (is_batch()) {
    select_in_batch(product, mask, aux_slots, comm);
  } else {
    const kernels::TopKSlots main = slots_of(selected_, product.rows, k_);
    not_numbers_ = encode_select_.topk(product, main, mask, aux_slots);
  }
}

void TopKSae::select_in_batch(const kernels::EncoderProduct& product, const std::uint8_t* mask,
                              const kernels::TopKSlots* aux, comm::Communicator& comm) {
  const std::string what = "sae." + config_.name + ".batch_topk";
  std::vector<std::int64_t> rows{product.rows};
  comm.all_reduce_sum(std::span<std::int64_t>(rows), what);
  const std::int64_t wanted = rows[0] * k_;
  float bound = smallest_kept_ > 0 ? kGuess * smallest_kept_ : guess_bound(product, comm);
  while (true) {
    // Whatever the guess, all that is kept lies above it or it is lowered: the result is exact.
    not_numbers_ = encode_select_.above(product, bound, selected_, mask, aux);
    std::vector<std::int64_t> found{static_cast<std::int64_t>(selected_.values.size())};
    comm.all_reduce_sum(std::span<std::int64_t>(found), what);
    if (found[0] >= wanted || bound == kLeastPositive) break;
    bound = 4 * found[0] < wanted ? kLeastPositive : std::max(kLeastPositive, bound / 2);
  }
  smallest_kept_ = keep_largest_of_batch(selected_, wanted, comm, what).smallest;
}

float TopKSae::guess_bound(const kernels::EncoderProduct& product, comm::Communicator& comm) {
  kernels::EncoderProduct sample = product;
  sample.rows = std::min(product.rows, kGuessRows);
  const std::int64_t k = std::min(n_latents_, 4 * k_);
  kernels::SelectedPairs pairs;
  encode_select_.topk(sample, slots_of(pairs, sample.rows, k));
  const std::int64_t wanted = sample.rows * k_;
  std::vector<std::int64_t> bits{std::bit_cast<std::int32_t>(kLeastPositive)};
  if (wanted > 0 && wanted <= static_cast<std::int64_t>(pairs.values.size())) {
    const auto cut = pairs.values.begin() + (wanted - 1);
    std::nth_element(pairs.values.begin(), cut, pairs.values.end(), std::greater<>());
    bits[0] = std::bit_cast<std::int32_t>(std::max(kLeastPositive, kGuess * *cut));
  }
  comm.all_reduce_min(std::span<std::int64_t>(bits), "sae." + config_.name + ".guess");
  return std::bit_cast<float>(static_cast<std::int32_t>(bits[0]));
}

void TopKSae::update_threshold() {
  const std::int64_t window = batch_config_->threshold_window_tokens.value_or(
      std::max<std::int64_t>(1, std::min<std::int64_t>(2'000'000, info_.total_tokens / 10)));
  const double decay =
      std::exp(-static_cast<double>(info_.batch_tokens) / static_cast<double>(window));
  auto* sum = threshold_sum_.mutable_data_ptr<double>();
  auto* weight = threshold_weight_.mutable_data_ptr<double>();
  *sum = decay * *sum + (1 - decay) * static_cast<double>(smallest_kept_);
  *weight = decay * *weight + (1 - decay);
}

}  // namespace thresher::sae
