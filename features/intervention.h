#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "evaluation/encode_text.h"
#include "host_model/generation.h"
#include "sae/inference_sae.h"

namespace thresher::features {

/// Which positions of a context are edited. Positions count from the context's first token, BOS
/// included.
struct PositionRange {
  enum class Kind {
    kAll,
    kFromPromptEnd,  // the last token of the prompt, whose row decides the first new token, and on
    kLastPromptToken,  // that token alone
    kSpan,             // first <= position < end
  };
  Kind kind = Kind::kAll;
  std::int64_t first = 0, end = 0;

  /// "all", "end", "last", "FIRST:END". UsageError for anything else.
  static PositionRange parse(std::string_view text);
  std::string name() const;  // what parse takes
};

/// Tells the rows of a pass that may be read and edited from sinks, whose activations have another
/// scale and meaning: a sink's norm can be 100 times its neighbours', and whatever is added there
/// moves all later tokens by way of attention. Left alone are
///
/// - padding;
/// - the first positions of a context and special tokens, where the rules drop them;
/// - rows whose norm is beyond the limit: at a hook point of the run's cache the run's own, at any
///   other 10 times the (lower) median norm of the prompt's rows that the first two rules keep.
///
/// A single such row has nothing to be compared with and counts as none. The median is of the
/// prompt, not of what follows it, so that a pass with a cache and one over all tokens agree; it is
/// taken in the pass that reads the prompts from their start.
class SinkGuard {
 public:
  SinkGuard(const evaluation::EncodingRules& rules, const corpus::Tokenizer& tokenizer);

  /// [rows] bool, true for rows that are no sinks. `activation` is what the model shows at `point`.
  at::Tensor usable_rows(const host_model::HookPoint& point, const at::Tensor& activation,
                         const host_model::PassRows& rows);

 private:
  double fixed_limit(const host_model::HookPoint& point) const;  // 0: none

  activation_cache::CacheConfig cache_;
  std::vector<double> norm_limits_;
  const corpus::Tokenizer* tokenizer_;
  /// By hook point and prompt.
  std::map<host_model::HookPoint, std::map<std::int64_t, double>> limits_;
};

/// One edit of a row x, in float32. With a direction d of unit vector u:
///
///     kAdd         x + value d          (d as it is given, not its unit vector)
///     kClamp       x + (value - x.u) u  (the component along d becomes value)
///     kScale       x + (value - 1) (x.u) u
///     kProjectOut  x - (x.u) u
///
/// With a latent of an SAE, whose activation on x is a and whose decoder row is w, x becomes
/// x + (a' - a) w, so that all that the SAE does not explain stays:
///
///     kAdd a' = a + value, kClamp a' = value, kScale a' = value a, kProjectOut a' = 0
///
/// kReconstruct puts the SAE's reconstruction in place of x.
struct Intervention {
  enum class Kind { kAdd, kClamp, kScale, kProjectOut, kReconstruct };
  Kind kind = Kind::kAdd;
  host_model::HookPoint point;
  PositionRange positions;
  /// [width], or [prompts, width]: one a prompt, by its number in the pass (PassRows::prompts).
  /// Undefined where `latent` or kReconstruct is meant. Zero directions leave rows as they are.
  at::Tensor direction;
  std::vector<double> values = {1};  // one for all, or one a prompt
  const sae::InferenceSae* sae = nullptr;
  std::int64_t latent = -1;
};

/// "add", "clamp", "scale", "project", "splice". UsageError for another word.
Intervention::Kind parse_intervention_kind(std::string_view word);

/// Interventions as hooks of passes and of generation. Those at one hook point follow each other in
/// the order given; which rows are sinks is decided before the first of them.
class Interventions {
 public:
  /// ConfigError for a hook point, latent or width that does not fit the model. SAEs must outlive
  /// this object.
  Interventions(std::vector<Intervention> interventions, const evaluation::EncodingRules& rules,
                const corpus::Tokenizer& tokenizer, const host_model::HostModelInfo& info);

  /// These refer to this object. A pass over contexts is bound with host_model::bind_hooks.
  std::map<host_model::HookPoint, host_model::RowHook> hooks();

  /// Rows (tokens times interventions) that were edited, and those in range that are sinks, over
  /// all passes so far.
  std::int64_t n_edited() const { return n_edited_; }
  std::int64_t n_left_alone() const { return n_left_alone_; }

 private:
  at::Tensor edit(const host_model::HookPoint& point, const at::Tensor& activation,
                  const host_model::PassRows& rows);

  std::vector<Intervention> interventions_;
  SinkGuard guard_;
  std::int64_t n_edited_ = 0, n_left_alone_ = 0;
};

}  // namespace thresher::features
