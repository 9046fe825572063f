#include "cli/bench_workload.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>

#include "cli/bench_rows.h"
#include "cli/ranks.h"
#include "core/config.h"
#include "core/error.h"
#include "core/stop_signal.h"
#include "sae/thread_check.h"

namespace thresher::cli {
namespace {

constexpr std::int64_t kBatches = 4;
// A run is so long, and this much of it done, that warm-ups are over and nothing is resampled.
constexpr std::int64_t kRunSteps = 1'000'000;
constexpr std::int64_t kStepsBefore = 550'001;
// Dead latents stay dead and l0 stays where it was put, while Adam does its work.
constexpr double kLearningRate = 1e-7;
constexpr std::int64_t kDeadWindow = std::int64_t{1} << 60;
// A latent that AuxK may choose keeps activations of both signs, far below those of the others.
constexpr float kDeadEncoderScale = 0.05F;
constexpr float kDeadBias = -1e6F;

constexpr std::int64_t kL0Rows = 512;
constexpr double kL0Tolerance = 0.02;
constexpr int kL0Trials = 60;

bool has_field(const std::string& variant, std::string_view name) {
  FieldCollector fields;
  sae::default_sae_config(variant)->declare(fields);
  const auto& all = fields.fields();
  return std::any_of(all.begin(), all.end(),
                     [&](const FieldDescription& field) { return field.name == name; });
}

void check_variant(const std::string& variant) {
  const std::vector<std::string> types = sae::sae_types();
  if (std::find(types.begin(), types.end(), variant) != types.end()) return;
  std::string known;
  for (const std::string& type : types) known += (known.empty() ? "" : ", ") + type;
  throw UsageError(fmt::format("bench step: variant \"{}\" is not known", variant), known);
}

StepSize chosen_size(const BenchStepOptions& options) {
  StepSize size = step_size(options.size);
  size.d_in = options.d_in.value_or(size.d_in);
  size.n_latents = options.n_latents.value_or(size.n_latents);
  size.batch_tokens = options.batch_tokens.value_or(size.batch_tokens);
  size.k = options.k.value_or(size.k);
  return size;
}

void stop_if_asked() {
  if (stop_requested()) throw StoppedBySignal("bench step: stopped before its end, no figures");
}

trainer::TrainConfig train_config(const BenchStepOptions& options, const StepSize& size) {
  trainer::TrainConfig config;
  config.batch_tokens = size.batch_tokens;
  // On a GPU all rows of a rank are one lane.
  config.lanes = options.device == "cuda" ? 1 : options.lanes.value_or(config.lanes);
  config.total_tokens = kRunSteps * size.batch_tokens;
  config.learning_rate = kLearningRate;
  config.validate();
  return config;
}

}  // namespace

StepWorkload::StepWorkload(const BenchStepOptions& options)
    : size_(chosen_size(options)), is_logged_(options.is_logged) {
  check_variant(options.variant);
  has_k_ = has_field(options.variant, "k");
  if (has_k_ && options.l0) {
    throw UsageError(fmt::format("bench step: --l0 does not go with {}", options.variant),
                     "--k, which says how many latents are active");
  }
  if (!has_k_ && options.k) {
    throw UsageError(fmt::format("bench step: --k does not go with {}", options.variant),
                     "--l0, which says about how many latents are active");
  }
  const std::unique_ptr<sae::SaeConfig> sae_entry = sae_config(options);
  config_ = trainer::config_of(train_config(options, size_), *sae_entry);
  comm_ = comm::make_self_communicator();
  if (options.device == "cuda") {
    if (options.lanes) {
      throw UsageError("bench step: --lanes does not go with --device cuda",
                       "all rows of a GPU are one lane");
    }
    take_gpu(*comm_);
    place_ = {Device::kCuda, true};
  }
  const int threads = set_threads(options.threads, *comm_);
  if (place_.device == Device::kCpu) {
    apply_threads(sae::threads_with_fixed_bits(size_.batch_tokens / config_.lanes, size_.d_in,
                                               size_.n_latents, threads));
  }
  const std::int64_t n_rows = kBatches * size_.batch_tokens;
  rows_ = options.rows.empty() ? synthetic_rows(n_rows, size_.d_in)
                               : read_rows(options.rows, n_rows, size_.d_in);
  sae_ = sae::make_training_sae(*sae_entry, size_.d_in, place_);
  rows_ = rows_.to(weight("W_enc").device());
  sae_->initialise(0, batch(0));

  info_.step = kStepsBefore;
  info_.batch_tokens = size_.batch_tokens;
  info_.tokens_before = kStepsBefore * size_.batch_tokens;
  info_.total_tokens = config_.total_tokens;
  info_.dead_window_tokens = kDeadWindow;
  info_.n_local_lanes = config_.lanes;
  if (options.l0) reach_l0(*options.l0);
  make_dead(options.dead_fraction, has_field(options.variant, "aux_k"));
  step_.emplace(*sae_, config_);
}

std::unique_ptr<sae::SaeConfig> StepWorkload::sae_config(const BenchStepOptions& options) const {
  std::string text = fmt::format("sae: {{type: {}, hook_point: none, n_latents: {}",
                                 options.variant, size_.n_latents);
  if (has_k_) text += fmt::format(", k: {}", size_.k);
  ConfigNode root = parse_config(text + "}", "bench step");
  for (const std::string& override : options.overrides) apply_override(root, "sae." + override);
  return sae::read_sae_config(*root.find("sae"), "sae");
}

void StepWorkload::take_step() {
  stop_if_asked();
  const std::vector<at::Tensor> lanes = batch(info_.step % kBatches).chunk(config_.lanes);
  figures_ = step_->run(info_, lanes, *comm_, is_logged_);
  ++info_.step;
  info_.tokens_before += size_.batch_tokens;
}

double StepWorkload::figure(const char* name) const { return figures_.at(name).as_double(); }

Json StepWorkload::sae_fields() const {
  ConfigWriter writer;
  // declare takes references it may write to, so it is not const.
  const_cast<sae::SaeConfig&>(sae_->config()).declare(writer);
  Json out = Json::object();
  for (const auto& [name, value] : writer.json().as_object()) {
    const bool is_auto = value.is_string() && value.as_string() == "auto";
    if (name != "name" && name != "hook_point" && !is_auto) out[name] = value;
  }
  return out;
}

StepMemory StepWorkload::memory() {
  StepMemory memory;
  for (const sae::Parameter& parameter : sae_->parameters()) {
    memory.parameters += static_cast<std::int64_t>(parameter.weight.nbytes());
    memory.gradients += static_cast<std::int64_t>(parameter.gradient.nbytes());
  }
  for (const trainer::Moments& moments : step_->moments()) {
    memory.optimiser += static_cast<std::int64_t>(moments.m.nbytes() + moments.v.nbytes());
  }
  return memory;
}

at::Tensor StepWorkload::batch(std::int64_t index) const {
  return rows_.narrow(0, index * size_.batch_tokens, size_.batch_tokens);
}

at::Tensor StepWorkload::row_major_encoder() {
  return weight("W_enc").clone(at::MemoryFormat::Contiguous);
}

at::Tensor& StepWorkload::weight(const char* name) {
  for (sae::Parameter& parameter : sae_->parameters()) {
    if (parameter.name == name) return parameter.weight;
  }
  THRESHER_CHECK(false, std::string("every variant has ") + name);
}

double StepWorkload::l0_of(const std::vector<at::Tensor>& lanes) {
  stop_if_asked();
  trainer::TrainConfig still = config_;
  still.learning_rate = 0;
  sae::StepInfo info = info_;
  info.batch_tokens = lanes.front().size(0);
  info.n_local_lanes = 1;
  return trainer::Step(*sae_, still).run(info, lanes, *comm_).at("l0").as_double();
}

void StepWorkload::reach_l0(double l0) {
  const std::int64_t rows = std::min(kL0Rows, size_.batch_tokens);
  const std::vector<at::Tensor> lanes = {rows_.narrow(0, 0, rows)};
  at::Tensor& b_enc = weight("b_enc");
  const at::Tensor start = b_enc.clone();
  // Widens until the ends of [low, high] lie on both sides, then halves.
  double low = -1, high = 1, now = 0;
  bool has_low = false, has_high = false;
  double reached = 0;
  for (int trial = 0; trial < kL0Trials; ++trial) {
    b_enc.copy_(start).add_(now);
    reached = l0_of(lanes);
    if (std::abs(reached / l0 - 1) < kL0Tolerance) return;
    (reached > l0 ? high : low) = now;
    (reached > l0 ? has_high : has_low) = true;
    if (has_low && has_high) {
      now = 0.5 * (low + high);
    } else {
      now = reached > l0 ? std::min(2 * now, -0.125) : std::max(2 * now, 0.125);
    }
  }
  throw ConfigError(
      fmt::format("bench step: no bias makes {} latents active; the nearest is {}", l0, reached),
      fmt::format("an l0 below the dictionary size {}", size_.n_latents));
}

void StepWorkload::make_dead(double fraction, bool has_aux) {
  at::Tensor scale = at::ones({size_.n_latents}, at::kFloat);
  at::Tensor bias = at::zeros({size_.n_latents}, at::kFloat);
  at::Tensor silent = at::zeros({size_.n_latents}, at::kLong);
  const auto dead_below = [&](std::int64_t latent) {
    return std::floor(fraction * static_cast<double>(latent));
  };
  for (std::int64_t i = 0; i < size_.n_latents; ++i) {
    if (dead_below(i + 1) == dead_below(i)) continue;
    if (has_aux) {
      scale.data_ptr<float>()[i] = kDeadEncoderScale;
    } else {
      bias.data_ptr<float>()[i] = kDeadBias;
    }
    silent.data_ptr<std::int64_t>()[i] = kDeadWindow;
  }
  const at::Device device = weight("W_enc").device();
  weight("W_enc").mul_(scale.to(device));
  weight("b_enc").add_(bias.to(device));
  for (auto& [name, buffer] : sae_->buffers()) {
    if (name == "tokens_since_fired") buffer.copy_(silent);
  }
}

}  // namespace thresher::cli
