#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "activation_cache/cache.h"
#include "cli/bench.h"
#include "cli/bench_clock.h"
#include "cli/ranks.h"
#include "cli/stages.h"
#include "cli/versions.h"
#include "core/error.h"
#include "evaluation/clean_pass.h"

namespace thresher::cli {
namespace {

constexpr std::int64_t kForwardTokens = 4096;

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Json common(const std::string& bench, const comm::Communicator& comm) {
  return Json::object({{"bench", bench},
                       {"ranks", comm.world_size()},
                       {"backend", comm.backend()},
                       {"device", "cpu"},
                       {"threads", current_threads()},
                       {"peak_rss_bytes", peak_rss_bytes()},
                       {"versions", versions_json()}});
}

activation_cache::BatchPlan plan_of(Experiment experiment,
                                    const activation_cache::ActivationSource& source) {
  settle_training(experiment, source.statistics(0).n_rows);
  activation_cache::BatchPlan plan;
  plan.batch_tokens = experiment.train.batch_tokens;
  plan.lanes = experiment.train.lanes;
  plan.shuffle_window_tokens = experiment.train.shuffle_window_tokens;
  plan.seed = experiment.seed();
  return plan;
}

}  // namespace

Json bench_loader(const Experiment& experiment, std::int64_t steps, comm::Communicator& comm) {
  check_rank_count(experiment, comm);
  const auto source = activation_cache::open_cache_source(experiment.cache.dir);
  const activation_cache::BatchPlan plan = plan_of(experiment, *source);
  const std::int64_t n_lanes = plan.lanes / comm.world_size();
  const double begin = now_seconds();
  source->start(plan, 0, comm.rank() * n_lanes, n_lanes);
  const std::int64_t n_steps = steps > 0 ? steps : source->steps_per_epoch();
  std::vector<std::vector<float>> rows;
  double row_bytes = 0;
  for (const activation_cache::HookPointWidth& hook : source->hook_points()) {
    rows.emplace_back(static_cast<std::size_t>(plan.lane_rows() * hook.d_in));
    row_bytes += static_cast<double>(hook.d_in) * sizeof(float);
  }
  for (std::int64_t step = 0; step < n_steps; ++step) {
    for (std::int64_t lane = 0; lane < n_lanes; ++lane) {
      for (std::size_t hook = 0; hook < rows.size(); ++hook) {
        source->read(step, comm.rank() * n_lanes + lane, hook, rows[hook]);
      }
    }
  }
  comm.barrier("bench.loader");
  const double seconds = now_seconds() - begin;
  const auto n_rows = static_cast<double>(n_steps * plan.batch_tokens);
  Json out = common("loader", comm);
  out["steps"] = n_steps;
  out["batch_tokens"] = plan.batch_tokens;
  out["rows_per_second"] = n_rows / seconds;
  out["tokens_per_second"] = n_rows / seconds;
  out["float32_bytes_per_second"] = n_rows * row_bytes / seconds;
  out["seconds"] = seconds;
  return out;
}

Json bench_harvest(const Experiment& experiment, std::int64_t steps, comm::Communicator& comm) {
  if (experiment.activations) {
    throw ConfigError("bench harvest: the experiment reads activations alone",
                      "an experiment with a host model");
  }
  Experiment own = experiment;
  Inputs inputs = load_inputs(own, comm);
  const corpus::PackedContexts contexts = pack_contexts(inputs, corpus::Split::kTraining);
  const std::int64_t n = std::min(
      contexts.n_contexts, std::max<std::int64_t>(1, kForwardTokens / contexts.context_tokens));
  if (n == 0) throw ConfigError("bench harvest: the corpus fills no context", "more text");
  const host_model::TokenBatch batch = evaluation::make_batch(contexts, 0, n);
  host_model::ForwardRequest request;
  for (const std::string& name : experiment.cache.hook_points) {
    // The harvest takes activations to the host, and a GPU is waited for that way.
    request.hooks[host_model::HookPoint::parse(name)] = [](const at::Tensor& activation) {
      activation.to(at::kCPU);
      return at::Tensor();
    };
  }
  inputs.model->forward(batch, request);  // warm
  std::vector<double> seconds, cpu;
  for (std::int64_t i = 0; i < steps; ++i) {
    const double begin = now_seconds();
    const double cpu_begin = cpu_seconds();
    inputs.model->forward(batch, request);
    seconds.push_back(now_seconds() - begin);
    cpu.push_back(cpu_seconds() - cpu_begin);
  }
  comm.barrier("bench.harvest");
  const auto tokens = static_cast<double>(n * contexts.context_tokens * comm.world_size());
  Json out = common("harvest", comm);
  out["hook_points"] = Json::array_of(experiment.cache.hook_points);
  out["device"] = device_name(inputs.model->info().device);
  out["host_dtype"] = dtype_name(inputs.model->info().dtype);
  out["forward_tokens"] = n * contexts.context_tokens;
  out["steps"] = steps;
  out["tokens_per_second"] = tokens / median(seconds);
  out["forward_seconds"] = seconds_summary(seconds);
  out["forward_cpu_seconds"] = seconds_summary(cpu);
  return out;
}

Json bench_comm(std::int64_t bytes, std::int64_t repeats, comm::Communicator& comm) {
  std::vector<float> values(static_cast<std::size_t>(bytes / 4), 1.0F);
  comm.all_reduce_sum(values, "bench.warm");
  std::vector<double> seconds;
  for (std::int64_t i = 0; i < repeats; ++i) {
    std::fill(values.begin(), values.end(), 1.0F);
    comm.barrier("bench.comm");
    const double begin = now_seconds();
    comm.all_reduce_sum(values, "bench.all_reduce");
    seconds.push_back(now_seconds() - begin);
  }
  const auto expected = static_cast<float>(comm.world_size());
  const bool is_right =
      std::all_of(values.begin(), values.end(), [&](float value) { return value == expected; });
  THRESHER_CHECK(is_right, "all_reduce_sum of ones is not the number of ranks");
  Json out = common("comm", comm);
  out["bytes"] = bytes;
  out["repeats"] = repeats;
  out["all_reduce_seconds"] = seconds_summary(seconds);
  out["gigabytes_per_second"] = static_cast<double>(bytes) / median(seconds) / 1e9;
  return out;
}

}  // namespace thresher::cli
