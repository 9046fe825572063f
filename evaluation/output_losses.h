#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "host_model/host_model.h"

namespace thresher::evaluation {

/// What a run predicts at the prediction rows, float64 [rows] each.
struct OutputLosses {
  at::Tensor cross_entropy;  // of the next token, nats
  at::Tensor kl_divergence;  // KL(clean || run), nats
};

/// Losses of the clean run and of `runs`, all ln_final outputs [tokens, d_model]: element 0 is the
/// clean run, then one a run. Logits exist for a chunk of rows at a time; the clean ones are
/// computed once for all runs.
std::vector<OutputLosses> output_losses(const at::Tensor& clean_final,
                                        const std::vector<at::Tensor>& runs,
                                        const at::Tensor& prediction_rows,
                                        const at::Tensor& targets, host_model::HostModel& model);

}  // namespace thresher::evaluation
