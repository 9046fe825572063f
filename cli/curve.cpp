#include "cli/curve.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <set>

#include "activation_cache/cache.h"
#include "core/error.h"
#include "core/progress.h"
#include "evaluation/clean_pass.h"
#include "evaluation/evaluation.h"
#include "evaluation/row_evaluation.h"
#include "sae/metrics.h"
#include "trainer/checkpoint.h"

namespace thresher::cli {
namespace {

constexpr std::int64_t kForwardTokens = 4096;

/// One SAE at one checkpoint.
struct Point {
  std::int64_t tokens = 0;
  std::string name;
  std::string hook_point;
  std::size_t hook_index = 0;  // in the cache
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
                        config->hook_point, hook, training->to_inference(transform),
                        sae::ReconstructionMetrics(training->d_in(), training->n_latents())});
    }
  }
  return points;
}

sae::ReconstructionMetrics measure(const Point& point, const at::Tensor& x) {
  const at::Tensor latent_acts = point.sae.encode_dense(x);
  sae::ReconstructionMetrics part(point.sae.d_in(), point.sae.n_latents());
  part.add(x, point.sae.decode_dense(latent_acts), latent_acts);
  return part;
}

/// What is held out, in batches that do not depend on the ranks.
struct Batches {
  std::int64_t n = 0;
  /// Kept rows [n, d_in] of a batch, one tensor a point.
  std::function<std::vector<at::Tensor>(std::int64_t batch)> read;
};

/// Held-out text through the host model. `points`, `inputs` and `context` are borrowed.
Batches text_batches(const Experiment& experiment, Inputs& inputs, const std::vector<Point>& points,
                     const evaluation::EvaluationContext& context) {
  const auto held_out =
      std::make_shared<corpus::PackedContexts>(pack_contexts(inputs, corpus::Split::kHeldOut));
  std::set<host_model::HookPoint> hooks;
  for (const Point& point : points) hooks.insert(host_model::HookPoint::parse(point.hook_point));
  const std::int64_t n_contexts =
      std::min(held_out->n_contexts,
               std::max<std::int64_t>(1, experiment.evaluation.tokens / held_out->context_tokens));
  const std::int64_t contexts =
      std::max<std::int64_t>(1, kForwardTokens / held_out->context_tokens);
  return {(n_contexts + contexts - 1) / contexts, [=, &inputs, &points, &context](std::int64_t b) {
            const std::int64_t first = b * contexts;
            const evaluation::CleanPass clean = evaluation::run_clean(
                evaluation::make_batch(*held_out, first, std::min(contexts, n_contexts - first)),
                {hooks.begin(), hooks.end()}, context, *inputs.tokenizer, *inputs.model);
            std::vector<at::Tensor> x;
            for (const Point& point : points) {
              x.push_back(clean.activations.at(host_model::HookPoint::parse(point.hook_point))
                              .to(at::kCPU)  // where the checkpoints' SAEs are
                              .index_select(0, clean.kept_rows));
            }
            return x;
          }};
}

/// Held-out rows of own activations.
Batches row_batches(const Experiment& experiment, const Inputs& inputs,
                    const std::vector<Point>& points,
                    const evaluation::EvaluationContext& context) {
  activation_cache::check_own_files(inputs.files, experiment.cache.dir);
  const auto rows = std::make_shared<std::vector<std::int64_t>>(
      evaluation::choose_held_out_rows(experiment.evaluation, *inputs.rows));
  const evaluation::RowBatches batches(*inputs.rows, *rows, context);
  return {batches.size(), [rows, batches, &points](std::int64_t b) {
            const std::vector<at::Tensor> hooks = batches.read(b);
            std::vector<at::Tensor> x;
            for (const Point& point : points) x.push_back(hooks[point.hook_index]);
            return x;
          }};
}

}  // namespace

Json held_out_curve(const Experiment& experiment, const std::filesystem::path& run_dir,
                    Inputs& inputs, comm::Communicator& comm) {
  std::vector<Point> points;
  evaluation::EvaluationContext context;
  Batches batches;
  work_together(comm, "prepare the curve", [&] {
    const auto source = activation_cache::open_cache_source(experiment.cache.dir);
    context = evaluation::make_evaluation_context(experiment.cache, *source);
    points = load_points(experiment, run_dir, *source);
    batches = inputs.rows ? row_batches(experiment, inputs, points, context)
                          : text_batches(experiment, inputs, points, context);
  });
  Progress progress("curve", "batches", batches.n, 0, comm.is_root());
  for (std::int64_t round = 0; round < batches.n; round += comm.world_size()) {
    const std::int64_t batch = round + comm.rank();
    std::vector<sae::ReconstructionMetrics> parts;
    work_together(comm, "measure the checkpoints", [&] {
      if (batch >= batches.n) return;
      const std::vector<at::Tensor> x = batches.read(batch);
      for (std::size_t i = 0; i < points.size(); ++i) parts.push_back(measure(points[i], x[i]));
    });
    for (std::size_t i = 0; i < points.size(); ++i) {
      points[i].metrics.merge_ranks(parts.empty() ? nullptr : &parts[i], comm);
    }
    progress.update(std::min(batches.n, round + comm.world_size()));
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
