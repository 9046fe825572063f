#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "host_model/host_model.h"

namespace thresher::host_model {

/// Which tokens the rows of a pass are: row c * tokens + t is token t of context c. All in host
/// memory.
struct PassRows {
  /// [n_contexts, tokens]. A document number of -1 marks padding. `positions` count from the start
  /// of the context's own tokens, cached ones included.
  TokenBatch batch;
  at::Tensor prompts;        // [n_contexts] int64: the number of the prompt that it continues
  at::Tensor prompt_tokens;  // [n_contexts] int64: how many tokens that prompt has
  /// True for the pass that reads the prompts from their first token; false for one that continues
  /// from a cache.
  bool is_first = true;
};

/// A hook that knows which rows it sees; returns what a HookFunction returns.
using RowHook = std::function<at::Tensor(const at::Tensor& activation, const PassRows& rows)>;

/// The same hooks for one pass. `rows` must outlive it.
std::map<HookPoint, HookFunction> bind_hooks(const std::map<HookPoint, RowHook>& hooks,
                                             const PassRows& rows);

/// Contexts of different length in one batch, aligned at their ends: padding in front with token 0,
/// position 0 and document -1. Every context must have a token. `prompt_tokens` are the lengths,
/// `prompts` count from 0.
PassRows align_contexts(const std::vector<std::vector<std::int32_t>>& contexts);

struct Prompt {
  std::vector<std::int32_t> token_ids;
  /// Which of several samples of the same prompt; part of the random draw.
  std::int64_t sample = 0;
};

struct GenerationRequest {
  std::vector<Prompt> prompts;
  std::int64_t max_new_tokens = 64;
  double temperature = 0;  // 0: the most probable token, equal ones the lowest id
  /// Draws are from the fewest most probable tokens whose probabilities, at the temperature, sum to
  /// at least this.
  double top_p = 1;
  std::uint64_t seed = 0;
  std::vector<std::int32_t> stop_ids;  // a text ends before the first of these
  std::int64_t batch_contexts = 32;    // prompts that run together
  /// Called in the pass over the prompts and in that of each new token.
  std::map<HookPoint, RowHook> hooks;
  /// Called with a prompt's number and a token as soon as it is chosen (stop tokens are not).
  std::function<void(std::size_t prompt, std::int32_t token_id)> on_token;
};

struct Generated {
  enum class End { kStopToken, kLength, kContextFull };
  std::vector<std::int32_t> token_ids;  // without the prompt and the stop token
  End end = End::kLength;
};

/// Continues every prompt, with a key-value cache. A draw is a function of (seed, the prompt's
/// tokens, sample, position), so what else is in the batch changes nothing but the rounding of
/// logits. ConfigError for a prompt without tokens or as long as the model's context, and for
/// logits that are not finite (an intervention can do that).
std::vector<Generated> generate(HostModel& model, const GenerationRequest& request);

/// The token that a draw `uniform` in [0, 1) picks from logits [n_vocabulary] float32, by the
/// request's temperature (above 0) and top_p; probabilities are float64.
std::int32_t pick_token(const at::Tensor& logits, double temperature, double top_p, double uniform);

}  // namespace thresher::host_model
