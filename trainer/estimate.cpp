#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <set>

#include "kernels/encode_select.h"
#include "trainer/trained_sae.h"
#include "trainer/trainer.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kProbeRows = 256;
// The program with LibTorch in it; 133 MB were measured.
constexpr std::uint64_t kBaseBytes = std::uint64_t{150} << 20;

/// Seconds of rows x [d_in, n_latents], from a warm product of a few rows on this machine as it is
/// now.
double product_seconds(std::int64_t d_in, std::int64_t n_latents, double rows) {
  const at::Tensor x = at::ones({kProbeRows, d_in}), W = at::ones({d_in, n_latents});
  at::Tensor out = at::empty({kProbeRows, n_latents});
  double best = 1e30;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    at::mm_out(out, x, W);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::min(best, seconds.count());
  }
  return best * rows / static_cast<double>(kProbeRows);
}

/// Inputs as they come, centred and packed for the product, errors and AuxK's; the packed block of
/// the encoder.
std::uint64_t sparse_step_bytes(std::int64_t rank_rows, std::int64_t lane_rows, std::int64_t d_in) {
  return 4 * static_cast<std::uint64_t>(lane_rows * d_in + 5 * rank_rows * d_in) +
         kernels::EncodeSelect::kPackedBytes;
}

bool is_sparse(const sae::SaeConfig& config) {
  return dynamic_cast<const sae::TopKConfig*>(&config) != nullptr;
}

/// Inputs, activations and errors of all lanes; gradients of one; the sums along the lane tree.
std::uint64_t dense_step_bytes(std::int64_t rank_rows, std::int64_t lane_rows,
                               std::int64_t local_lanes, std::int64_t d_in,
                               std::int64_t n_latents) {
  const auto levels = std::bit_width(static_cast<std::uint64_t>(local_lanes));
  const std::int64_t matrices = 2 * d_in * n_latents;
  return 4 * static_cast<std::uint64_t>(rank_rows * (n_latents + 2 * d_in) +
                                        lane_rows * (n_latents + d_in) + (levels + 1) * matrices);
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
    const bool sparse = is_sparse(*sae);
    const auto weights = 4 * static_cast<std::uint64_t>(2 * d_in * n_latents + d_in + n_latents);
    const std::uint64_t average = config_of(config, *sae).ema_decay > 0 ? weights : 0;
    stored += 3 * weights + average;  // of a checkpoint: weights, two moments, an average
    exported += weights;
    // Weights, gradients and two moments. Every SAE keeps its own of what a step needs, because it
    // needs it again in the next.
    memory += 4 * weights + average + average / 2;
    memory += sparse ? sparse_step_bytes(rank_rows, lane_rows, d_in) + weights
                     : dense_step_bytes(rank_rows, lane_rows, local_lanes, d_in, n_latents);
    sample = std::max(sample, static_cast<std::uint64_t>(config.init_sample_rows * d_in * 12));
    if (hooks.insert(hook).second) batch += static_cast<std::uint64_t>(2 * rank_rows * d_in * 4);
    // How often a step costs its encoder product: all five for dense gradients, little more than
    // the encoder's own where only a few latents a token are active.
    seconds_a_step +=
        (sparse ? 1.5 : 6) * product_seconds(d_in, n_latents, static_cast<double>(rank_rows));
  }
  estimate.memory_bytes_per_rank = kBaseBytes + memory + sample + batch;
  const auto logged = static_cast<std::uint64_t>(estimate.steps / config.log_every_steps + 1);
  // One checkpoint more than is kept exists while it is written.
  estimate.disk_bytes = static_cast<std::uint64_t>(config.keep_checkpoints + 1) * stored +
                        exported + logged * job.saes.size() * 450;
  estimate.seconds = seconds_a_step * static_cast<double>(estimate.steps);
  return estimate;
}

}  // namespace thresher::trainer
