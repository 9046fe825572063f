#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "sae/training_sae.h"

namespace thresher::trainer {

/// Exponential moving average of an SAE's parameters (EMA). After step t (from 1)
///
///     average += (1 - d) (weight - average),   d = min(decay, (t - 1) / t)
///
/// so the first 1 / (1 - decay) steps give their plain mean and the initial weights have no part.
/// Entries of latents that a step replaced are the new weights. Element-wise, one rounding an
/// operation: bits do not depend on threads.
class WeightAverage {
 public:
  /// 0 <= decay < 1; 0 keeps nothing and does nothing.
  WeightAverage(sae::TrainingSae& sae, double decay);

  bool is_on() const { return decay_ > 0; }
  void update(std::int64_t step);
  /// In the order of the SAE's parameters, their shapes and strides; empty when off. Shares memory:
  /// restore with copy_.
  const std::vector<at::Tensor>& tensors() const { return averages_; }
  /// What is evaluated and exported: the SAE of the averages, its weights as they are when off.
  sae::InferenceSae to_inference(const sae::InputTransform& transform) const;

 private:
  sae::TrainingSae* sae_;
  double decay_;
  std::vector<at::Tensor> averages_;
  at::Tensor difference_;  // scratch
};

/// The name of a parameter's average in a checkpoint: "W_enc.ema".
std::string average_name(const sae::Parameter& parameter);

/// Zeroes the entries of `tensor` (of the parameter's shape) that belong to these latents.
void clear_latents(const sae::Parameter& parameter, const std::vector<std::int64_t>& latents,
                   at::Tensor& tensor);

}  // namespace thresher::trainer
