#include <ATen/ATen.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "cli/bench.h"
#include "cli/ranks.h"
#include "cli/versions.h"
#include "core/config.h"
#include "core/error.h"
#include "core/random.h"
#include "sae/training_sae.h"
#include "trainer/step.h"

namespace thresher::cli {
namespace {

constexpr std::int64_t kWarmSteps = 3;

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::unique_ptr<sae::SaeConfig> sae_config(const BenchStepOptions& options) {
  std::string text = fmt::format("sae: {{type: {}, hook_point: none, n_latents: {}", options.sae,
                                 options.n_latents);
  if (options.sae == "topk") text += fmt::format(", k: {}", options.k);
  const ConfigNode root = parse_config(text + "}", "bench step");
  return sae::read_sae_config(*root.find("sae"), "sae");
}

at::Tensor random_rows(std::int64_t rows, std::int64_t d_in) {
  at::Tensor out = at::empty({rows, d_in}, at::kFloat);
  const RandomStream stream(0, "bench.step.rows");
  float* values = out.data_ptr<float>();
  for (std::int64_t i = 0; i < out.numel(); ++i) {
    values[i] = static_cast<float>(stream.normal(static_cast<std::uint64_t>(i)));
  }
  return out;
}

trainer::TrainConfig train_config(const BenchStepOptions& options) {
  trainer::TrainConfig config;
  config.batch_tokens = options.batch_tokens;
  config.lanes = options.lanes;
  config.total_tokens = (options.steps + kWarmSteps) * options.batch_tokens;
  config.validate();
  return config;
}

}  // namespace

double median(std::vector<double> values) {
  THRESHER_CHECK(!values.empty(), "no values");
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
}

Json seconds_summary(std::vector<double> seconds) {
  const auto [min, max] = std::minmax_element(seconds.begin(), seconds.end());
  return Json::object({{"min", *min}, {"median", median(seconds)}, {"max", *max}});
}

std::int64_t peak_rss_bytes() {
  rusage usage{};
  THRESHER_CHECK(getrusage(RUSAGE_SELF, &usage) == 0, "getrusage failed");
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;  // Linux counts KiB
}

Json bench_step(const BenchStepOptions& options) {
  if (options.device != "cpu") {
    throw DeviceError(
        fmt::format("bench step: device {} cannot train: this version trains on the CPU",
                    options.device),
        "--device cpu");
  }
  apply_threads(static_cast<int>(options.threads));
  const trainer::TrainConfig config = train_config(options);
  const std::unique_ptr<comm::Communicator> comm = comm::make_self_communicator();
  const auto sae = sae::make_training_sae(*sae_config(options), options.d_in);
  const at::Tensor x = random_rows(options.batch_tokens, options.d_in);
  sae->initialise(0, x);
  trainer::Step step(*sae, config);

  sae::StepInfo info;
  info.total_tokens = config.total_tokens;
  info.batch_tokens = config.batch_tokens;
  info.dead_window_tokens = config.total_tokens;  // no latent counts as dead: AuxK stays idle
  info.n_local_lanes = config.lanes;
  const std::vector<at::Tensor> lanes = x.chunk(config.lanes);
  const auto take_step = [&] {
    step.run(info, lanes, *comm);
    ++info.step;
    info.tokens_before += config.batch_tokens;
  };
  for (std::int64_t i = 0; i < kWarmSteps; ++i) take_step();
  const std::int64_t peak = peak_rss_bytes();  // before the product's own memory counts

  const at::Tensor W_enc = sae->parameters().front().weight;
  at::Tensor product = at::empty({options.batch_tokens, options.n_latents}, at::kFloat);
  at::mm_out(product, x, W_enc);
  std::vector<double> step_seconds, gemm_seconds;
  for (std::int64_t i = 0; i < options.steps; ++i) {
    step_seconds.push_back(seconds_of(take_step));
    gemm_seconds.push_back(seconds_of([&] { at::mm_out(product, x, W_enc); }));
  }
  return Json::object(
      {{"bench", "step"},
       {"sae", options.sae},
       {"d_in", options.d_in},
       {"n_latents", options.n_latents},
       {"batch_tokens", options.batch_tokens},
       {"k", options.sae == "topk" ? Json(options.k) : Json()},
       {"lanes", options.lanes},
       {"steps", options.steps},
       {"tokens_per_second", static_cast<double>(options.batch_tokens) / median(step_seconds)},
       {"step_seconds", seconds_summary(step_seconds)},
       {"encoder_gemm_seconds", median(gemm_seconds)},
       {"peak_rss_bytes", peak},
       {"device", options.device},
       {"threads", options.threads},
       {"versions", versions_json()}});
}

}  // namespace thresher::cli
