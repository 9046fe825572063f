#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "sae/training_sae.h"
#include "trainer/checkpoint_format.h"
#include "trainer/step.h"

namespace thresher::trainer {

/// A committed checkpoint of a run. Its content has not been looked at.
struct CheckpointEntry {
  std::filesystem::path folder;  // RUN/ckpt/step-00001200
  std::int64_t step = 0;
};
/// In ascending order of step; empty when there is none. Unfinished, removed and set-aside folders
/// are not among them.
std::vector<CheckpointEntry> list_checkpoints(const std::filesystem::path& run_dir);

/// One SAE's share of a checkpoint, by reference.
struct SaeSlot {
  std::string name;
  sae::TrainingSae* sae;
  std::vector<Moments>* moments;  // nullptr: not wanted (loading only)
  sae::InputTransform* transform;
  const WeightAverage* average = nullptr;  // nullptr: not wanted (loading only)
};

/// What one checkpoint holds, in host memory: borrowed from the SAEs, to be written before they
/// change, or copied, to be written while training goes on.
class CheckpointContent {
 public:
  CheckpointState state;
  std::string config_yaml;  // the resolved experiment

  /// Refers to the SAEs' tensors as they are (copies what is not row-major on the host).
  void borrow(std::span<const SaeSlot> saes);
  /// Copies them, into the memory of the copy before where there was one.
  void copy(std::span<const SaeSlot> saes);

  struct Tensor {
    std::string name;
    at::Tensor values;  // row-major on the host; float32, float64 or int64
  };
  const std::vector<Tensor>& model() const { return model_; }
  const std::vector<Tensor>& optimiser() const { return optimiser_; }

 private:
  std::vector<Tensor> model_, optimiser_;
  bool is_borrowed_ = false;
};

/// Writes RUN/ckpt/step-<step> so that after a crash at any point every committed checkpoint is
/// whole, then removes all but the newest `keep`. Errors leave the older checkpoints as they were.
/// For rank 0 alone, on any thread.
void write_checkpoint(const std::filesystem::path& run_dir, const CheckpointContent& content,
                      std::int64_t keep);

/// Removes all but the newest `keep` checkpoints; what cannot be removed is a warning.
void prune_checkpoints(const std::filesystem::path& run_dir, std::int64_t keep);
/// Removes what a killed process left half-written or half-removed in RUN/ckpt.
void clean_checkpoints(const std::filesystem::path& run_dir);
/// Renames a damaged checkpoint to damaged-step-..., out of the way of the run that goes on.
void set_checkpoint_aside(const CheckpointEntry& entry);

/// Compares every file with COMMIT (sizes and SHA-256) and reads state.json. DataError naming the
/// file and what differs.
CheckpointState verify_checkpoint(const std::filesystem::path& folder);
/// Reads weights, buffers, transforms, averages and moments of a verified checkpoint into SAEs of
/// the same widths. DataError naming a tensor that is missing or has another shape.
void load_checkpoint(const std::filesystem::path& folder, std::span<const SaeSlot> saes);
/// Verifies a checkpoint and reads one SAE out of it: weights and buffers into `sae`, which has the
/// type and widths it was trained with; their averages in the weights' place where the run kept
/// some, because they are what is evaluated. Returns the transform to hand to `to_inference`.
sae::InputTransform load_checkpoint_model(const std::filesystem::path& folder,
                                          const std::string& sae_name, sae::TrainingSae& sae);

}  // namespace thresher::trainer
