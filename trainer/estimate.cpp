#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <set>

#include "kernels/dense_aux_k.h"
#include "kernels/encode_select.h"
#include "sae/jumprelu_sae.h"
#include "sae/topk_sae.h"
#include "trainer/trained_sae.h"
#include "trainer/trainer.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kProbeRows = 256;
// Whoever asks what 64M latents would take must not need the memory for it.
constexpr std::int64_t kMostProbeLatents = 65536;
// The program with LibTorch in it; 133 MB were measured.
constexpr std::uint64_t kBaseBytes = std::uint64_t{150} << 20;

/// Seconds of rows x [d_in, n_latents], from a warm product of a few rows on this machine as it is
/// now.
double product_seconds(std::int64_t d_in, std::int64_t n_latents, double rows) {
  const std::int64_t probed = std::min(n_latents, kMostProbeLatents);
  const at::Tensor x = at::ones({kProbeRows, d_in}), W = at::ones({d_in, probed});
  at::Tensor out = at::empty({kProbeRows, probed});
  double best = 1e30;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    at::mm_out(out, x, W);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::min(best, seconds.count());
  }
  return best * (rows / static_cast<double>(kProbeRows)) *
         (static_cast<double>(n_latents) / static_cast<double>(probed));
}

// What a step keeps of a chosen (token, latent) pair: latent and value where they were selected and
// in their lane, the value's gradient, row and slot in the order of latents.
constexpr std::int64_t kPairBytes = 28;
constexpr std::int64_t kJumpReluPairBytes = 40;
// A pair that may be chosen yet; of BatchTopK there are about so many for each that is.
constexpr std::int64_t kCandidateBytes = 8;
constexpr std::int64_t kBatchCandidates = 4;

// Steps in products of the encoder: all five and more for dense gradients; where only some pairs
// count, about its own (`thresher bench step`).
constexpr double kDenseStep = 6, kSparseStep = 1.2;

/// What one rank works on.
struct Share {
  std::int64_t rows, lane_rows, lanes;  // of the rank, of a lane, of the rank
  std::int64_t d_in, n_latents;
  std::int64_t matrices() const { return 2 * d_in * n_latents; }
  /// Buffers that sums of lanes take on their way along the tree.
  std::int64_t levels() const { return std::bit_width(static_cast<std::uint64_t>(lanes)); }
};

/// Inputs as they come, centred and packed for the product, errors and AuxK's; the packed block of
/// the encoder.
std::int64_t row_bytes(const Share& share) {
  return 4 * (share.lane_rows + 5 * share.rows) * share.d_in + kernels::EncodeSelect::kPackedBytes;
}

/// AuxK by pairs or by dense products, whichever takes more: nobody knows how many latents will be
/// dead.
std::int64_t aux_bytes(const sae::TopKConfig& config, const Share& share) {
  if (config.aux_coefficient == 0) return 0;
  const std::int64_t k =
      config.aux_k.value_or(std::clamp<std::int64_t>(share.d_in / 2, 1, share.n_latents));
  const std::int64_t pairs = share.rows * k * (kPairBytes + kCandidateBytes);
  const std::int64_t n_dead = std::min(share.n_latents, sae::TopKSae::kDenseAuxShare * k);
  const std::int64_t row = 2 * 4 * (n_dead + share.d_in);
  const std::int64_t group =
      std::max(share.lane_rows * row, std::min(kernels::DenseAuxK::kGroupBytes, share.rows * row));
  const std::int64_t rows_of_weights = 3 + 2 * std::max<std::int64_t>(0, share.levels() - 2);
  return std::max(pairs, group + 4 * rows_of_weights * n_dead * share.d_in);
}

std::int64_t topk_bytes(const sae::TopKConfig& config, const Share& share) {
  const bool is_batch = dynamic_cast<const sae::BatchTopKConfig*>(&config) != nullptr;
  const std::int64_t k = std::max(config.k, config.k_at(0));
  const std::int64_t candidates = is_batch ? kBatchCandidates : 1;
  return row_bytes(share) + share.rows * k * (kPairBytes + candidates * kCandidateBytes) +
         aux_bytes(config, share);
}

/// At the start, where many latents are active: pairs up to what is kept, and sums along the tree
/// of what is not.
std::int64_t jumprelu_bytes(const Share& share) {
  const std::int64_t pairs =
      std::min(share.rows * share.n_latents, sae::JumpReluLimits().kept_pairs);
  return row_bytes(share) + kJumpReluPairBytes * pairs +
         4 * (share.levels() + 1) * share.matrices();
}

/// Inputs, activations and errors of all lanes; gradients of one; the sums along the lane tree.
std::int64_t dense_step_bytes(const Share& share) {
  return 4 * (share.rows * (share.n_latents + 2 * share.d_in) +
              share.lane_rows * (share.n_latents + share.d_in) +
              (share.levels() + 1) * share.matrices());
}

struct StepCost {
  std::int64_t bytes;
  double products;
};

StepCost step_cost(const sae::SaeConfig& config, const Share& share) {
  if (const auto* topk = dynamic_cast<const sae::TopKConfig*>(&config)) {
    const std::int64_t weights = 4 * (share.matrices() + share.d_in + share.n_latents);
    return {topk_bytes(*topk, share) + weights, kSparseStep};
  }
  if (dynamic_cast<const sae::JumpReluConfig*>(&config) != nullptr) {
    return {jumprelu_bytes(share), kSparseStep};
  }
  return {dense_step_bytes(share), kDenseStep};
}

}  // namespace

TrainEstimate estimate_training(const TrainJob& job,
                                const activation_cache::ActivationSource& source, int world_size) {
  const TrainConfig& config = job.config;
  TrainEstimate estimate;
  estimate.steps = n_steps(config);
  estimate.tokens = estimate.steps * config.batch_tokens;
  const std::int64_t rank_rows = std::max<std::int64_t>(1, config.batch_tokens / world_size);
  const std::int64_t lane_rows = std::max<std::int64_t>(1, config.batch_tokens / config.lanes);
  const std::int64_t local_lanes = std::max<std::int64_t>(1, config.lanes / world_size);
  std::uint64_t stored = 0, exported = 0, memory = 0, sample = 0, batch = 0;
  double seconds_a_step = 0;
  std::set<std::size_t> hooks;
  for (const auto& sae : job.saes) {
    const std::size_t hook = source.hook_index(sae->hook_point);
    const std::int64_t d_in = source.hook_points()[hook].d_in;
    const std::int64_t n_latents = sae->latents(d_in);
    const StepCost cost = step_cost(*sae, {rank_rows, lane_rows, local_lanes, d_in, n_latents});
    const auto weights = 4 * static_cast<std::uint64_t>(2 * d_in * n_latents + d_in + n_latents);
    const std::uint64_t average = config_of(config, *sae).ema_decay > 0 ? weights : 0;
    stored += 3 * weights + average;  // of a checkpoint: weights, two moments, an average
    exported += weights;
    // Weights, gradients and two moments. Every SAE keeps its own of what a step needs, because it
    // needs it again in the next.
    memory += 4 * weights + average + average / 2;
    memory += static_cast<std::uint64_t>(cost.bytes);
    sample = std::max(sample, static_cast<std::uint64_t>(config.init_sample_rows * d_in * 12));
    if (hooks.insert(hook).second) batch += static_cast<std::uint64_t>(2 * rank_rows * d_in * 4);
    seconds_a_step +=
        cost.products * product_seconds(d_in, n_latents, static_cast<double>(rank_rows));
  }
  estimate.seconds = seconds_a_step * static_cast<double>(estimate.steps);
  const double interval = 60 * config.checkpoint_every_minutes;
  const bool saves_on_the_way =
      config.checkpoint_every_tokens > 0 || (interval > 0 && estimate.seconds > interval);
  // The copy that is written while training goes on.
  const std::uint64_t copy = config.background_checkpoints && saves_on_the_way ? stored : 0;
  estimate.memory_bytes_per_rank = kBaseBytes + memory + sample + batch + copy;
  const auto logged = static_cast<std::uint64_t>(estimate.steps / config.log_every_steps + 1);
  // One checkpoint more than is kept exists while it is written.
  estimate.disk_bytes = static_cast<std::uint64_t>(config.keep_checkpoints + 1) * stored +
                        exported + logged * job.saes.size() * 450;
  return estimate;
}

}  // namespace thresher::trainer
