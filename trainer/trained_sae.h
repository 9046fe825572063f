#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "activation_cache/activation_source.h"
#include "sae/training_sae.h"
#include "trainer/step.h"
#include "trainer/trainer.h"

namespace thresher::trainer {

/// One SAE of a job with all that its training needs.
struct TrainedSae {
  std::string name;
  std::size_t hook_index = 0;
  std::int64_t dead_window_tokens = 0;
  std::unique_ptr<sae::TrainingSae> sae;
  std::unique_ptr<Step> step;
  sae::InputTransform transform;
  at::Tensor centre;              // of `transform`, float32, where the SAE is trained
  Json figures = Json::object();  // of the last step that was not left out
  std::int64_t skipped_steps = 0;
  bool was_skipped = false;  // in the last step
};

/// Whole batches only.
std::int64_t n_steps(const TrainConfig& config);

/// The window after which a silent latent counts as dead: the SAE's own, or the smaller of 10 M and
/// a tenth of the run. ConfigError if it is longer than the run (then no latent could ever be
/// dead). `index` is its place in the list.
std::int64_t dead_window_tokens(const sae::SaeConfig& config, const TrainConfig& train,
                                std::size_t index);

/// Makes every SAE of the job, its parameters not yet set.
std::vector<TrainedSae> make_trained_saes(const TrainJob& job,
                                          activation_cache::ActivationSource& source);
/// Where the job's SAEs are trained, and in which types.
sae::TrainingPlace training_place(const TrainJob& job);
/// First weights, from the seed and a sample of the source's rows: the same on every rank.
void initialise(TrainedSae& trained, const TrainJob& job,
                activation_cache::ActivationSource& source);

/// The seed of an SAE's initial weights and draws: its own, else the run's. Its name and its place
/// in the list decide nothing, so an SAE of a list has the bits of its solo run.
std::uint64_t sae_seed(const sae::SaeConfig& config, std::uint64_t run_seed);

/// out = scale * (raw - centre), row by row; `out` and `raw` [rows, d_in] float32 on one device.
void transform_rows(const TrainedSae& trained, const at::Tensor& raw, at::Tensor& out);

}  // namespace thresher::trainer
