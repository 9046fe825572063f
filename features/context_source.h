#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/json.h"
#include "corpus/corpus.h"
#include "corpus/tokenizer.h"
#include "evaluation/encode_text.h"
#include "host_model/host_model.h"

namespace thresher::features {

/// Contexts whose order is that of the text, with the activations of their kept positions.
struct ContextUnit {
  std::int64_t first_context = 0;  // number in the packed text
  std::int64_t n_contexts = 0;
  std::vector<std::int32_t> token_ids;  // [n_contexts, context_tokens]
  std::vector<std::int32_t> documents;  // the same; number of the token's document
  /// Kept positions, ordered by context and position.
  std::vector<std::int32_t> row_context;   // from first_context on
  std::vector<std::int32_t> row_position;  // column of the context
  /// [rows, width] one a hook point asked for, in the type in which they are kept.
  std::vector<at::Tensor> rows;
};

/// Text and what a host model computes on it, unit by unit: a pure function of the unit's number,
/// whoever asks. One object a rank.
class ContextSource {
 public:
  virtual ~ContextSource() = default;
  std::int64_t context_tokens() const { return context_tokens_; }
  std::int64_t n_contexts() const { return n_contexts_; }
  virtual std::int64_t n_units() const = 0;
  virtual ContextUnit load(std::int64_t unit) = 0;
  /// What the text is: {"from", "corpus", ...}, for the facts of a store.
  virtual Json facts() const = 0;

 protected:
  std::int64_t context_tokens_ = 0;
  std::int64_t n_contexts_ = 0;  // those that are read
};

/// A complete cache: the activations that the SAE was trained on, as stored. Reads the contexts
/// before `max_contexts`. ConfigError for a hook point that is not in the cache; DataError for
/// damage.
std::unique_ptr<ContextSource> open_cached_contexts(const std::filesystem::path& dir,
                                                    const std::vector<std::string>& hook_points,
                                                    std::int64_t max_contexts);

/// Packed text through the host model, positions kept by `rules` as a cache would keep them. What
/// is referred to must outlive the source; `corpus_facts` says what the text is.
std::unique_ptr<ContextSource> make_fresh_contexts(const corpus::PackedContexts& contexts,
                                                   const std::vector<std::string>& hook_points,
                                                   const evaluation::EncodingRules& rules,
                                                   std::int64_t max_contexts,
                                                   const corpus::Tokenizer& tokenizer,
                                                   host_model::HostModel& model, Json corpus_facts);

}  // namespace thresher::features
