#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

#include "evaluation/evaluation.h"
#include "host_model/host_model.h"

namespace thresher::evaluation {

/// Contexts [first, first + count) of `packed` as a batch.
host_model::TokenBatch make_batch(const corpus::PackedContexts& packed, std::int64_t first,
                                  std::int64_t count);

/// What an untouched run of a batch gives; every spliced run starts from it.
struct CleanPass {
  host_model::TokenBatch batch;
  std::map<host_model::HookPoint, at::Tensor> activations;  // [tokens, width]: the points asked for
  at::Tensor final_normalized;                              // [tokens, d_model]
  at::Tensor kept_rows;                                     // int64, ascending: rows that count
  at::Tensor
      prediction_rows;  // int64, ascending: kept rows with a next token in context and document
  at::Tensor targets;   // int64, the next token of each prediction row
};

/// Runs the batch and applies the cache's rule for positions. The activations of `points`, of the
/// cache's hook points and those from which spliced runs start again are kept.
CleanPass run_clean(const host_model::TokenBatch& batch,
                    const std::vector<host_model::HookPoint>& points,
                    const EvaluationContext& context, const corpus::Tokenizer& tokenizer,
                    host_model::HostModel& model);

/// ln_final's output [tokens, d_model] when the kept rows of the activation at `point` are
/// `replacement` [kept rows, width] instead. Only the hook point's block (where it is needed) and
/// those after it are computed again.
at::Tensor run_spliced(const CleanPass& clean, const host_model::HookPoint& point,
                       const at::Tensor& replacement, host_model::HostModel& model);

}  // namespace thresher::evaluation
