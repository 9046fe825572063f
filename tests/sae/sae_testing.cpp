#include "tests/sae/sae_testing.h"

#include <span>

#include "core/random.h"
#include "kernels/adam.h"
#include "kernels/decoder_norm.h"

namespace thresher::sae::testing {
namespace {

std::span<float> memory_of(at::Tensor& tensor) {
  return {static_cast<float*>(tensor.data_ptr()), static_cast<std::size_t>(tensor.numel())};
}

}  // namespace

at::Tensor normal_values(std::vector<std::int64_t> shape, std::uint64_t seed) {
  at::Tensor out = at::empty(shape, at::kFloat);
  const RandomStream stream(seed, "tests.normal_values");
  auto* value = out.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < out.numel(); ++i) {
    value[i] = static_cast<float>(stream.normal(static_cast<std::uint64_t>(i)));
  }
  return out;
}

std::vector<std::string> cases() {
  return {"topk",
          "topk_annealed",
          "topk_aux_pairs",
          "batch_topk",
          "relu_l1",
          "relu_l1_sparse",
          "relu_l1_bricken",
          "jumprelu_gdm",
          "jumprelu_target_l0",
          "jumprelu_anthropic"};
}

std::unique_ptr<SaeConfig> config_of_case(const std::string& name) {
  const std::string type = name.starts_with("topk")       ? "topk"
                           : name.starts_with("relu")     ? "relu_l1"
                           : name.starts_with("jumprelu") ? "jumprelu"
                                                          : name;
  std::unique_ptr<SaeConfig> config = default_sae_config(type);
  config->name = "a";
  if (auto* topk = dynamic_cast<TopKConfig*>(config.get())) {
    topk->k = 6;
    if (name == "topk_aux_pairs") topk->aux_k = 1;
    if (name == "topk_annealed") {
      topk->k_start = 11;
      topk->k_anneal_tokens = 300;
    }
  }
  if (name == "relu_l1_bricken") {
    auto* relu = dynamic_cast<ReluL1Config*>(config.get());
    relu->form = "bricken";
    relu->use_form_defaults();
    relu->l1_coefficient = 0.1;
  }
  if (auto* jump = dynamic_cast<JumpReluConfig*>(config.get())) {
    jump->recipe = name.substr(std::string("jumprelu_").size());
    jump->use_form_defaults();
    // Windows that a short run meets, and a penalty that does not silence it.
    if (!jump->is_anthropic()) jump->bandwidth = 0.5;
    if (jump->is_anthropic()) jump->sparsity_coefficient = 0.2;
    if (jump->recipe == "gdm") jump->initial_threshold = 0.2;
    if (jump->recipe == "target_l0") {
      jump->initial_log_threshold = -1;
      jump->threshold_parameter = "log";
      jump->threshold_learning_rate_factor = 2;
    }
  }
  return config;
}

at::Tensor lane_rows(const at::Tensor& batch, std::int64_t lane, std::int64_t n_lanes) {
  const std::int64_t rows = batch.size(0) / n_lanes;
  return batch.narrow(0, lane * rows, rows).clone();
}

void compute_gradients(TrainingSae& sae, const StepInfo& info, const at::Tensor& batch,
                       std::int64_t n_lanes, comm::Communicator& comm) {
  StepInfo local = info;
  local.n_local_lanes = n_lanes / comm.world_size();
  const std::int64_t first = local.n_local_lanes * comm.rank();
  sae.begin_step(local);
  std::vector<at::Tensor> lanes;
  for (std::int64_t l = 0; l < local.n_local_lanes; ++l) {
    lanes.push_back(lane_rows(batch, first + l, n_lanes));
  }
  sae.forward(lanes, comm);
  sae.backward();
  for (Parameter& parameter : sae.parameters()) {
    comm.all_reduce_sum(memory_of(parameter.gradient), "grad." + parameter.name);
  }
  sae.finish_gradients();
}

std::vector<std::string> train(TrainingSae& sae, std::int64_t steps, std::int64_t batch_tokens,
                               std::int64_t dead_window_tokens, std::int64_t n_lanes,
                               comm::Communicator& comm) {
  std::vector<at::Tensor> m, v;
  for (const Parameter& parameter : sae.parameters()) {
    m.push_back(at::zeros_like(parameter.weight));
    v.push_back(at::zeros_like(parameter.weight));
  }
  std::vector<std::string> lines;
  for (std::int64_t step = 0; step < steps; ++step) {
    const at::Tensor batch =
        normal_values({batch_tokens, sae.d_in()}, 1000 + static_cast<std::uint64_t>(step));
    compute_gradients(sae,
                      {.step = step,
                       .tokens_before = step * batch_tokens,
                       .total_tokens = steps * batch_tokens,
                       .batch_tokens = batch_tokens,
                       .dead_window_tokens = dead_window_tokens},
                      batch, n_lanes, comm);
    for (std::size_t p = 0; p < m.size(); ++p) {
      Parameter& parameter = sae.parameters()[p];
      const kernels::AdamStep adam{.learning_rate = 1e-2 * parameter.learning_rate_factor,
                                   .beta1 = 0.9,
                                   .beta2 = 0.999,
                                   .epsilon = 1e-8,
                                   .step = step + 1,
                                   .gradient_scale = 1};
      float* weights = memory_of(parameter.weight).data();
      const float* gradient = memory_of(parameter.gradient).data();
      if (!parameter.has_unit_rows) {
        kernels::adam({}, adam, parameter.weight.numel(), gradient, weights, memory_of(m[p]).data(),
                      memory_of(v[p]).data());
        continue;
      }
      const std::int64_t rows = parameter.memory_rows();
      const std::int64_t cols = parameter.weight.numel() / rows;
      std::vector<double> parallel(static_cast<std::size_t>(rows));
      kernels::parallel_components({}, rows, cols, weights, gradient, parallel.data());
      kernels::adam_unit_rows({}, adam, rows, cols, gradient, parallel.data(), true, weights,
                              memory_of(m[p]).data(), memory_of(v[p]).data());
    }
    lines.push_back(sae.finish_step(comm).dump());
  }
  return lines;
}

std::string state_bytes(TrainingSae& sae) {
  std::string bytes;
  const auto append = [&](const at::Tensor& tensor) {
    const at::Tensor flat = tensor.contiguous();
    bytes.append(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes());
  };
  for (const Parameter& parameter : sae.parameters()) append(parameter.weight);
  for (const auto& [name, tensor] : sae.buffers()) append(tensor);
  return bytes;
}

double relative_difference(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor truth = expected.to(at::kDouble);
  const double scale = truth.abs().max().item<double>();
  return (actual.to(at::kDouble) - truth).abs().max().item<double>() / scale;
}

}  // namespace thresher::sae::testing
