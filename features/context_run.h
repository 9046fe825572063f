#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "activation_cache/harvest/drop_rules.h"
#include "features/subject.h"
#include "host_model/host_model.h"

namespace thresher::features {

/// One context that was run untouched, with all that changed runs start from.
struct ContextRun {
  std::vector<std::int32_t> ids;
  std::vector<std::string> tokens;  // their bytes
  /// Other than kKept: a sink that the subject's rules leave out.
  std::vector<activation_cache::DropReason> dropped;
  host_model::TokenBatch batch;  // one context
  /// Every hook point of the model but resid_post of blocks that another one follows (that is the
  /// next one's resid_pre): [tokens, width] float32 in host memory.
  std::map<host_model::HookPoint, at::Tensor> activations;
  at::Tensor final_normalized;  // [tokens, d_model], on the model's device

  std::int64_t n_tokens() const { return static_cast<std::int64_t>(ids.size()); }
  /// The activation at any hook point of the model.
  const at::Tensor& at(const host_model::HookPoint& point) const;
  /// Positions that may be changed, ascending: those kept, or with `with_sinks` all.
  std::vector<std::int64_t> positions(bool with_sinks) const;
};

/// Tokens of `text` as one context, behind BOS where the subject's texts begin with it. `what`
/// names the text in messages ("--text"). ConfigError for a text without tokens and for one that is
/// longer than a context of the subject.
std::vector<std::int32_t> context_ids(std::string_view text, std::string_view what,
                                      const Subject& subject);

ContextRun run_context(const std::vector<std::int32_t>& ids, Subject& subject);

/// The same activation where places meet: resid_post of a block as resid_pre of the next,
/// hook_embed as resid_pre of the first.
host_model::HookPoint canonical(const host_model::HookPoint& point, std::int64_t n_blocks);

/// A run of a context in which one activation is replaced.
struct Replacement {
  host_model::HookPoint point;
  at::Tensor activation;  // [tokens, width] float32
};
/// ln_final's outputs [n * tokens, d_model] of n such runs, in their order. Each is computed from
/// its own hook point on, and all go through a block together, so that its weights are read once.
at::Tensor run_replaced(const ContextRun& run, const std::vector<Replacement>& replacements,
                        host_model::HostModel& model);

/// A batch of one context as one of `n` the same.
host_model::TokenBatch repeated(const host_model::TokenBatch& batch, std::int64_t n);

/// Runs of a context that are computed at once, so that memory stays small.
std::int64_t runs_per_batch(const ContextRun& run);

}  // namespace thresher::features
