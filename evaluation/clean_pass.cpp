#include "evaluation/clean_pass.h"

#include <ATen/ATen.h>

#include <optional>

#include "core/error.h"

namespace thresher::evaluation {
namespace {

using host_model::HookPoint;

at::Tensor rows_of(const std::vector<std::int32_t>& values, std::int64_t first, std::int64_t count,
                   std::int64_t width) {
  THRESHER_CHECK(static_cast<std::int64_t>(values.size()) >= (first + count) * width,
                 "packed contexts hold what they say");
  return at::from_blob(const_cast<std::int32_t*>(values.data()) + first * width, {count, width},
                       at::kInt)
      .to(at::kLong);
}

/// Whether an activation at `point` is the residual stream that the next block starts from, so that
/// patching it needs nothing of its own block.
bool feeds_next_block(const HookPoint& point, std::int64_t n_blocks) {
  return point.site == HookPoint::Site::kResidPost && point.block + 1 < n_blocks;
}

/// The residual stream from which a run that is patched at `point` starts again; nothing if it
/// starts from the patched activation itself or from the embedding.
std::optional<HookPoint> restart_point(const HookPoint& point, std::int64_t n_blocks) {
  if (point.site == HookPoint::Site::kEmbed || feeds_next_block(point, n_blocks))
    return std::nullopt;
  const bool is_final = point.site == HookPoint::Site::kFinalNormalized;
  return HookPoint{HookPoint::Site::kResidPre, is_final ? n_blocks - 1 : point.block};
}

void find_prediction_rows(CleanPass& clean) {
  const at::Tensor& documents = clean.batch.documents;
  const std::int64_t width = documents.size(1);
  const auto document = documents.accessor<std::int64_t, 2>();
  const auto token = clean.batch.token_ids.accessor<std::int64_t, 2>();
  std::vector<std::int64_t> rows, targets;
  const std::int64_t* kept = clean.kept_rows.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < clean.kept_rows.numel(); ++i) {
    const std::int64_t context = kept[i] / width;
    const std::int64_t position = kept[i] % width;
    if (position + 1 == width || document[context][position] != document[context][position + 1])
      continue;
    rows.push_back(kept[i]);
    targets.push_back(token[context][position + 1]);
  }
  clean.prediction_rows = at::tensor(rows, at::kLong);
  clean.targets = at::tensor(targets, at::kLong);
}

}  // namespace

host_model::TokenBatch make_batch(const corpus::PackedContexts& packed, std::int64_t first,
                                  std::int64_t count) {
  const std::int64_t width = packed.context_tokens;
  return {rows_of(packed.token_ids, first, count, width),
          rows_of(packed.positions, first, count, width),
          rows_of(packed.documents, first, count, width)};
}

CleanPass run_clean(const host_model::TokenBatch& batch, const std::vector<HookPoint>& points,
                    const EvaluationContext& context, const corpus::Tokenizer& tokenizer,
                    host_model::HostModel& model) {
  CleanPass clean;
  clean.batch = batch;
  host_model::ForwardRequest request;
  request.want_final = true;
  const auto keep = [&](const HookPoint& point) {
    // The model may go on to work in the tensor that it shows.
    request.hooks[point] = [&clean, point](const at::Tensor& activation) {
      clean.activations[point] = activation.clone();
      return at::Tensor();
    };
  };
  std::vector<HookPoint> cache_points;
  for (const std::string& name : context.cache.hook_points)
    cache_points.push_back(HookPoint::parse(name));
  for (const HookPoint& point : cache_points) keep(point);
  for (const HookPoint& point : points) {
    keep(point);
    if (const auto restart = restart_point(point, model.info().n_blocks)) keep(*restart);
  }
  clean.final_normalized = model.forward(batch, request);

  std::vector<at::Tensor> cache_activations;
  for (const HookPoint& point : cache_points)
    cache_activations.push_back(clean.activations.at(point).to(at::kCPU));
  const std::vector<std::uint8_t> is_kept =
      activation_cache::kept_positions(context.cache, tokenizer, batch.token_ids, batch.positions,
                                       cache_activations, context.norm_limits);
  std::vector<std::int64_t> kept;
  for (std::size_t row = 0; row < is_kept.size(); ++row) {
    if (is_kept[row] != 0) kept.push_back(static_cast<std::int64_t>(row));
  }
  clean.kept_rows = at::tensor(kept, at::kLong);
  find_prediction_rows(clean);
  return clean;
}

at::Tensor run_spliced(const CleanPass& clean, const HookPoint& point,
                       const at::Tensor& replacement, host_model::HostModel& model) {
  const at::Tensor patched = clean.activations.at(point).clone();
  patched.index_copy_(0, clean.kept_rows.to(patched.device()), replacement.to(patched.device()));
  host_model::ForwardRequest request;
  request.want_final = true;
  if (feeds_next_block(point, model.info().n_blocks)) {
    request.first_block = point.block + 1;
    request.resid_pre = patched;
    return model.forward(clean.batch, request);
  }
  request.hooks[point] = [&patched](const at::Tensor&) { return patched; };
  if (const auto restart = restart_point(point, model.info().n_blocks)) {
    request.first_block = restart->block;
    request.resid_pre = clean.activations.at(*restart);
  }
  return model.forward(clean.batch, request);
}

}  // namespace thresher::evaluation
