#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <set>

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

/// How often a step costs its encoder product: all five for dense gradients, about one more than
/// the encoder's own where only a few latents a token are active.
double products_of_a_step(const std::string& type) { return type == "topk" ? 2.5 : 6; }

}  // namespace

TrainEstimate estimate_training(const TrainJob& job,
                                const activation_cache::ActivationSource& source, int world_size) {
  const TrainConfig& config = job.config;
  TrainEstimate estimate;
  estimate.steps = n_steps(config);
  estimate.tokens = estimate.steps * config.batch_tokens;
  const std::int64_t rank_rows = std::max<std::int64_t>(1, config.batch_tokens / world_size);
  std::uint64_t weights = 0, widest_step = 0, sample = 0, batch = 0;
  double seconds_a_step = 0;
  std::set<std::size_t> hooks;
  for (const auto& sae : job.saes) {
    const std::size_t hook = source.hook_index(sae->hook_point);
    const std::int64_t d_in = source.hook_points()[hook].d_in;
    const std::int64_t n_latents = sae->latents(d_in);
    const auto values = static_cast<std::uint64_t>(2 * d_in * n_latents + d_in + n_latents);
    weights += values * sizeof(float);
    // Pre-activations and their gradients, reconstruction and error.
    widest_step = std::max(widest_step,
                           static_cast<std::uint64_t>(rank_rows * (2 * n_latents + 3 * d_in) * 4));
    sample = std::max(sample, static_cast<std::uint64_t>(config.init_sample_rows * d_in * 12));
    if (hooks.insert(hook).second) batch += static_cast<std::uint64_t>(2 * rank_rows * d_in * 4);
    seconds_a_step += products_of_a_step(sae->type) *
                      product_seconds(d_in, n_latents, static_cast<double>(rank_rows));
  }
  // Weights, gradients and two moments; writing a checkpoint copies what is not row-major.
  estimate.memory_bytes_per_rank = kBaseBytes + 6 * weights + std::max(widest_step, sample) + batch;
  const auto logged = static_cast<std::uint64_t>(estimate.steps / config.log_every_steps + 1);
  // A checkpoint is three times the weights; one more than is kept exists while it is written.
  estimate.disk_bytes = static_cast<std::uint64_t>(config.keep_checkpoints + 1) * 3 * weights +
                        weights + logged * job.saes.size() * 400;
  estimate.seconds = seconds_a_step * static_cast<double>(estimate.steps);
  return estimate;
}

}  // namespace thresher::trainer
