#include "cli/curve.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "activation_cache/cache.h"
#include "core/error.h"
#include "core/progress.h"
#include "evaluation/clean_pass.h"
#include "evaluation/evaluation.h"
#include "sae/metrics.h"
#include "trainer/checkpoint.h"

namespace thresher::cli {
namespace {

constexpr std::int64_t kForwardTokens = 4096;

/// One SAE at one checkpoint.
struct Point {
  std::int64_t tokens = 0;
  std::string name;
  host_model::HookPoint hook_point;
  sae::InferenceSae sae;
  sae::ReconstructionMetrics metrics;
};

std::vector<Point> load_points(const Experiment& experiment, const std::filesystem::path& run_dir,
                               const activation_cache::ActivationSource& source) {
  const std::vector<trainer::CheckpointEntry> checkpoints = trainer::list_checkpoints(run_dir);
  if (checkpoints.empty()) {
    throw ConfigError(fmt::format("{}: the run has no checkpoint", run_dir.string()),
                      "a run that has trained");
  }
  std::vector<Point> points;
  for (const trainer::CheckpointEntry& checkpoint : checkpoints) {
    for (const auto& config : experiment.saes) {
      const std::size_t hook = source.hook_index(config->hook_point);
      const auto training = sae::make_training_sae(*config, source.hook_points()[hook].d_in);
      const sae::InputTransform transform =
          trainer::load_checkpoint_model(checkpoint.folder, config->name, *training);
      points.push_back({checkpoint.step * experiment.train.batch_tokens, config->name,
                        host_model::HookPoint::parse(config->hook_point),
                        training->to_inference(transform),
                        sae::ReconstructionMetrics(training->d_in(), training->n_latents())});
    }
  }
  return points;
}

sae::ReconstructionMetrics measure(const Point& point, const evaluation::CleanPass& clean) {
  const at::Tensor x = clean.activations.at(point.hook_point).index_select(0, clean.kept_rows);
  const at::Tensor latent_acts = point.sae.encode_dense(x);
  sae::ReconstructionMetrics part(point.sae.d_in(), point.sae.n_latents());
  part.add(x, point.sae.decode_dense(latent_acts), latent_acts);
  return part;
}

}  // namespace

Json held_out_curve(const Experiment& experiment, const std::filesystem::path& run_dir,
                    Inputs& inputs, comm::Communicator& comm) {
  std::vector<Point> points;
  corpus::PackedContexts held_out;
  evaluation::EvaluationContext context;
  work_together(comm, "prepare the curve", [&] {
    const auto source = activation_cache::open_cache_source(experiment.cache.dir);
    context = evaluation::make_evaluation_context(experiment.cache, *source);
    points = load_points(experiment, run_dir, *source);
    held_out = pack_contexts(inputs, corpus::Split::kHeldOut);
  });
  std::set<host_model::HookPoint> hook_points;
  for (const Point& point : points) hook_points.insert(point.hook_point);
  const std::int64_t n_contexts =
      std::min(held_out.n_contexts,
               std::max<std::int64_t>(1, experiment.evaluation.tokens / held_out.context_tokens));
  const std::int64_t batch = std::max<std::int64_t>(1, kForwardTokens / held_out.context_tokens);
  Progress progress("curve", "contexts", n_contexts, 0, comm.is_root());
  for (std::int64_t round = 0; round < n_contexts; round += comm.world_size() * batch) {
    const std::int64_t first = round + comm.rank() * batch;
    std::vector<sae::ReconstructionMetrics> parts;
    work_together(comm, "measure the checkpoints", [&] {
      if (first >= n_contexts) return;
      const evaluation::CleanPass clean = evaluation::run_clean(
          evaluation::make_batch(held_out, first, std::min(batch, n_contexts - first)),
          {hook_points.begin(), hook_points.end()}, context, *inputs.tokenizer, *inputs.model);
      for (const Point& point : points) parts.push_back(measure(point, clean));
    });
    for (std::size_t i = 0; i < points.size(); ++i) {
      points[i].metrics.merge_ranks(parts.empty() ? nullptr : &parts[i], comm);
    }
    progress.update(std::min(n_contexts, round + comm.world_size() * batch));
  }
  progress.finish();
  Json curve = Json::array();
  for (const Point& point : points) {
    curve.push_back(Json::object({{"tokens", point.tokens},
                                  {"name", point.name},
                                  {"fvu", point.metrics.fvu()},
                                  {"l0", point.metrics.l0()}}));
  }
  return curve;
}

}  // namespace thresher::cli
