#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "features/intervention.h"
#include "features/subject.h"

namespace thresher::features {

/// What a text may turn to: continuations that have it and continuations that have its opposite,
/// usually with a space in front.
struct Attribute {
  std::string name;
  std::vector<std::string> positive, negative;
};

/// Several edits of one kind at one place that are to be compared.
struct SteeredSettings {
  Intervention base;           // kind, point, positions, and sae and latent where they are meant
  at::Tensor directions;       // [settings, width] float32; undefined with a latent or an SAE
  std::vector<double> values;  // [settings]
};

struct SettingScores {
  at::Tensor log_odds;  // [settings, prompts, attributes] float64, nats
  at::Tensor kl;        // [settings, prompts] float64, nats
  std::int64_t n_edited = 0,
               n_left_alone = 0;  // of prompts and continuations; left alone are sinks
};

/// Scores what follows prompts, for many settings at once. The log-odds of an attribute are
///
///     log sum_c P(c | prompt) over its positive continuations
///       - log sum_c P(c | prompt) over its negative ones,
///
/// P(c | prompt) the product over c's tokens, not normalised by length: so they are the odds of two
/// events, and lists of equal lengths are the user's to choose. `kl` is KL(steered || plain) of the
/// next token after the prompt.
///
/// Passes start at the edited block from the plain residual stream, and continuations of several
/// tokens continue the steered prompt from its keys and values.
class ContinuationScorer {
 public:
  /// `prompts` are token ids. ConfigError for a prompt or a continuation without tokens and for an
  /// attribute that lacks a side. The subject must outlive this object.
  ContinuationScorer(const Subject& subject, std::vector<std::vector<std::int32_t>> prompts,
                     const std::vector<Attribute>& attributes);

  const at::Tensor& plain_log_odds() const { return plain_log_odds_; }  // [prompts, attributes]
  std::int64_t n_prompts() const { return static_cast<std::int64_t>(prompts_.size()); }
  SettingScores score(const SteeredSettings& settings);
  /// KL(other || this) of the plain next token after each prompt, [prompts]; as many prompts each.
  at::Tensor divergence(const ContinuationScorer& other) const;

 private:
  /// The plain residual stream where steered passes start; undefined for passes from the embedding.
  struct Clean {
    at::Tensor of_prompts;        // [prompts, tokens, d_model]
    at::Tensor of_continuations;  // [prompts, multi, multi tokens, d_model]
  };
  /// Contexts of a pass over prompts: which prompt each of them is.
  struct Chunk {
    at::Tensor prompts;  // [n] int64
    std::int64_t first_block = 0;
    const Clean* clean = nullptr;  // null: from the embedding
  };
  void read_continuations(const std::vector<Attribute>& attributes);
  host_model::PassRows prompt_rows(const at::Tensor& prompts) const;
  host_model::PassRows continuation_rows(const host_model::PassRows& rows) const;
  const Clean& clean_state(std::int64_t block);
  /// Log-probabilities of the next token [n, n_vocabulary] and of the continuations [n, all].
  std::pair<at::Tensor, at::Tensor> run(
      const Chunk& chunk, const std::map<host_model::HookPoint, host_model::RowHook>& hooks);
  at::Tensor log_odds(const at::Tensor& of_continuations) const;
  std::int64_t contexts_in_a_pass() const;

  const Subject& subject_;
  std::vector<std::vector<std::int32_t>> prompts_;
  host_model::PassRows rows_;  // of all prompts
  struct Side {
    std::int64_t first = 0, count = 0;  // in the list of continuations
  };
  std::vector<std::array<Side, 2>> sides_;  // by attribute: positive, negative
  at::Tensor first_tokens_;                 // [continuations] int64
  at::Tensor multi_;                        // numbers of continuations of several tokens
  at::Tensor multi_ids_, multi_documents_;  // [multi, longest - 1]: their tokens but the last
  at::Tensor multi_targets_;                // the same shape: their tokens but the first
  std::map<std::int64_t, Clean> clean_;     // by block
  at::Tensor plain_, plain_log_odds_;       // [prompts, n_vocabulary], [prompts, attributes]
};

}  // namespace thresher::features
