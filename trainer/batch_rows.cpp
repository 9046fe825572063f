#include "trainer/batch_rows.h"

#include <ATen/ATen.h>

namespace thresher::trainer {

BatchRows::BatchRows(activation_cache::ActivationSource& source,
                     const std::vector<TrainedSae>& saes, std::int64_t lane_rows,
                     std::int64_t first_lane, std::int64_t n_lanes, std::int64_t end_step,
                     bool reads_ahead)
    : source_(&source),
      lane_rows_(lane_rows),
      first_lane_(first_lane),
      n_lanes_(n_lanes),
      end_step_(end_step),
      reads_ahead_(reads_ahead),
      rows_(source.hook_points().size()) {
  for (const TrainedSae& trained : saes) {
    Rows& rows = rows_[trained.hook_index];
    if (rows.inputs.defined()) continue;
    const at::TensorOptions place = trained.sae->parameters().front().weight.options();
    const bool is_on_gpu = place.device().is_cuda();
    const std::vector<std::int64_t> shape{n_lanes * lane_rows, trained.sae->d_in()};
    for (int i = 0; i < (reads_ahead ? 2 : 1); ++i) {
      rows.read[i] = at::empty(shape, at::TensorOptions(at::kFloat).pinned_memory(is_on_gpu));
    }
    if (is_on_gpu) rows.raw = at::empty(shape, place);
    rows.inputs = at::empty(shape, place);
    rows.lanes = is_on_gpu ? std::vector<at::Tensor>{rows.inputs} : rows.inputs.split(lane_rows);
  }
}

BatchRows::~BatchRows() {
  if (ahead_.valid()) ahead_.wait();
}

void BatchRows::read(std::int64_t step, int place) {
  for (std::int64_t lane = 0; lane < n_lanes_; ++lane) {
    for (std::size_t hook = 0; hook < rows_.size(); ++hook) {
      if (!rows_[hook].inputs.defined()) continue;
      const at::Tensor& all = rows_[hook].read[place];
      const std::int64_t count = lane_rows_ * all.size(1);
      source_->read(step, first_lane_ + lane, hook,
                    {all.data_ptr<float>() + lane * count, static_cast<std::size_t>(count)});
    }
  }
  bytes_[place] = source_->bytes_requested();
}

void BatchRows::take(std::int64_t step) {
  const bool is_ahead = ahead_.valid() && ahead_step_ == step;
  if (ahead_.valid() && !is_ahead) ahead_.wait();
  if (is_ahead) {
    ahead_.get();
    place_ = 1 - place_;
  } else {
    read(step, place_);
  }
  for (Rows& rows : rows_) {
    if (rows.raw.defined()) rows.raw.copy_(rows.read[place_], /*non_blocking=*/true);
  }
  if (!reads_ahead_ || step + 1 >= end_step_) return;
  ahead_step_ = step + 1;
  // place_ changes while the thread may not have begun.
  ahead_ =
      std::async(std::launch::async, [this, step, place = 1 - place_] { read(step + 1, place); });
}

const std::vector<at::Tensor>& BatchRows::inputs_of(const TrainedSae& trained) {
  Rows& rows = rows_[trained.hook_index];
  transform_rows(trained, rows.raw.defined() ? rows.raw : rows.read[place_], rows.inputs);
  return rows.lanes;
}

}  // namespace thresher::trainer
