#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <future>
#include <vector>

#include "activation_cache/activation_source.h"
#include "trainer/trained_sae.h"

namespace thresher::trainer {

/// A rank's rows of one batch, where the SAEs are trained. For a GPU the next batch is read, into
/// pinned memory, while the device works on this one.
class BatchRows {
 public:
  /// The local lanes [first_lane, first_lane + n_lanes) of the source's batches [.., end_step).
  /// Everything is borrowed; the source is used by this object alone while it lives.
  BatchRows(activation_cache::ActivationSource& source, const std::vector<TrainedSae>& saes,
            std::int64_t lane_rows, std::int64_t first_lane, std::int64_t n_lanes,
            std::int64_t end_step, bool reads_ahead);
  ~BatchRows();
  BatchRows(const BatchRows&) = delete;
  BatchRows& operator=(const BatchRows&) = delete;

  /// Takes batch `step`. What reading it throws comes out here, whenever it was read. The device
  /// must be done with the batch before.
  void take(std::int64_t step);
  /// What the SAE sees of the batch: its transform of the local lanes, or for a GPU of all rows as
  /// one lane. Valid until the next call for an SAE of the same hook point.
  const std::vector<at::Tensor>& inputs_of(const TrainedSae& trained);
  /// The source's bytes_requested() when the current batch had been read.
  std::uint64_t bytes_requested() const { return bytes_[place_]; }

 private:
  /// At one hook point; undefined where no SAE looks.
  struct Rows {
    at::Tensor read[2];             // [local rows, d_in], lane after lane; pinned if for a GPU
    at::Tensor raw;                 // on a GPU; elsewhere what was read is used as it is
    at::Tensor inputs;              // [local rows, d_in] where the SAE is
    std::vector<at::Tensor> lanes;  // of `inputs`
  };
  void read(std::int64_t step, int place);

  activation_cache::ActivationSource* source_;
  std::int64_t lane_rows_, first_lane_, n_lanes_, end_step_;
  bool reads_ahead_;
  std::vector<Rows> rows_;
  int place_ = 0;  // of the current batch among the two read
  std::uint64_t bytes_[2] = {0, 0};
  std::int64_t ahead_step_ = -1;  // being read, or read, into the other place
  std::future<void> ahead_;
};

}  // namespace thresher::trainer
