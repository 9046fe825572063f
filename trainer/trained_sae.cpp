#include "trainer/trained_sae.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kLongestDefaultWindow = 10'000'000;

}  // namespace

std::int64_t n_steps(const TrainConfig& config) {
  return config.total_tokens / config.batch_tokens;
}

std::int64_t dead_window_tokens(const sae::SaeConfig& config, const TrainConfig& train,
                                std::size_t index) {
  if (!config.dead_window_tokens) {
    return std::max<std::int64_t>(1, std::min(kLongestDefaultWindow, train.total_tokens / 10));
  }
  if (*config.dead_window_tokens > train.total_tokens) {
    throw ConfigError(
        fmt::format("sae[{}].dead_window_tokens = {} is more than train.total_tokens = {}", index,
                    *config.dead_window_tokens, train.total_tokens),
        "a window inside the run; with a longer one no latent could ever count as dead",
        "auto takes the smaller of 10 M and a tenth of the run");
  }
  return *config.dead_window_tokens;
}

sae::TrainingPlace training_place(const TrainJob& job) {
  const std::string& dtype = job.config.operand_dtype;
  return {.device = job.device,
          .has_bfloat16_operands =
              dtype == "bfloat16" || (dtype == "auto" && job.device == Device::kCuda)};
}

std::vector<TrainedSae> make_trained_saes(const TrainJob& job,
                                          activation_cache::ActivationSource& source) {
  std::vector<TrainedSae> saes;
  for (std::size_t i = 0; i < job.saes.size(); ++i) {
    const sae::SaeConfig& config = *job.saes[i];
    TrainedSae trained;
    trained.name = config.name;
    trained.hook_index = source.hook_index(config.hook_point);
    trained.dead_window_tokens = dead_window_tokens(config, job.config, i);
    trained.sae = sae::make_training_sae(config, source.hook_points()[trained.hook_index].d_in,
                                         training_place(job));
    trained.step = std::make_unique<Step>(*trained.sae, config_of(job.config, config));
    trained.transform = sae::make_input_transform(config, source.statistics(trained.hook_index));
    trained.centre = at::tensor(trained.transform.centre, at::kDouble)
                         .to(trained.sae->parameters().front().weight.options());
    saes.push_back(std::move(trained));
  }
  return saes;
}

void initialise(TrainedSae& trained, const TrainJob& job,
                activation_cache::ActivationSource& source) {
  const std::int64_t d_in = trained.sae->d_in();
  const std::int64_t n_rows =
      std::min(job.config.init_sample_rows, source.statistics(trained.hook_index).n_rows);
  at::Tensor sample = at::empty({n_rows, d_in}, at::kFloat);
  source.sample_rows(trained.hook_index, job.seed, n_rows,
                     {sample.data_ptr<float>(), static_cast<std::size_t>(sample.numel())});
  transform_rows(trained, sample, sample);
  trained.sae->initialise(sae_seed(trained.sae->config(), job.seed), sample);
}

std::uint64_t sae_seed(const sae::SaeConfig& config, std::uint64_t run_seed) {
  return config.seed ? static_cast<std::uint64_t>(*config.seed) : run_seed;
}

void transform_rows(const TrainedSae& trained, const at::Tensor& raw, at::Tensor& out) {
  const at::Tensor centre =
      trained.centre.device() == raw.device() ? trained.centre : trained.centre.to(raw.device());
  at::sub_out(out, raw, centre);
  out.mul_(trained.transform.scale);
}

}  // namespace thresher::trainer
