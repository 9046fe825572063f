#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "kernels/adam.h"
#include "sae/training_sae.h"
#include "trainer/train_config.h"

namespace thresher::trainer {

/// Adam's moments of one parameter.
struct Moments {
  at::Tensor m, v;  // float32, the parameter's shape, strides and device
};

/// What an update did, or why it did nothing.
struct UpdateFigures {
  double gradient_norm = 0;   // before clipping; not finite: nothing was changed
  double parameter_norm = 0;  // before the update; 0 unless asked for
  double update_norm = 0;     // of what Adam changed, before unit rows are scaled back; likewise
};

/// What becomes of an SAE's parameters once their gradients are reduced: the parts parallel to unit
/// rows are taken out, the norm over all gradients clips them, Adam updates, unit rows are scaled
/// back. Norms are accumulated in float64 along fixed trees.
class ParameterUpdate {
 public:
  virtual ~ParameterUpdate() = default;
  /// `adam` holds all but the clip factor. Complete on return; changes nothing where the gradient
  /// norm is not finite.
  virtual UpdateFigures run(const kernels::AdamStep& adam, bool wants_norms,
                            comm::Communicator& comm) = 0;
};

/// For gradients that the host can look at when backward returns: the norm decides before anything
/// is written.
std::unique_ptr<ParameterUpdate> make_host_update(sae::TrainingSae& sae,
                                                  std::vector<Moments>& moments, double clip_norm);
/// For an SAE whose step is enqueued: clip factor and verdict stay on the device, and the host
/// waits once, when all is enqueued. Works with tensors of any device.
std::unique_ptr<ParameterUpdate> make_enqueued_update(sae::TrainingSae& sae,
                                                      std::vector<Moments>& moments,
                                                      double clip_norm);

/// `adam` with the learning rate of this parameter.
kernels::AdamStep adam_of(const sae::Parameter& parameter, kernels::AdamStep adam);

}  // namespace thresher::trainer
