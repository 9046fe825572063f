#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/random.h"
#include "corpus/corpus.h"

namespace thresher::corpus {
namespace {

/// Numbers tokens inside their document's piece in their context.
std::vector<std::int32_t> number_positions(const std::vector<std::int32_t>& documents,
                                           std::int64_t context_tokens) {
  std::vector<std::int32_t> positions(documents.size());
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const bool restarts =
        i % static_cast<std::size_t>(context_tokens) == 0 || documents[i] != documents[i - 1];
    positions[i] = restarts ? 0 : positions[i - 1] + 1;
  }
  return positions;
}

}  // namespace

PackedContexts Corpus::pack(Split split) const {
  const bool is_training = split == Split::kTraining;
  const char* const name = is_training ? "training" : "held-out";
  std::vector<std::int32_t> members;
  for (std::size_t i = 0; i < documents_.size(); ++i) {
    if (documents_[i].is_held_out != is_training) members.push_back(static_cast<std::int32_t>(i));
  }
  if (members.empty()) {
    throw ConfigError(fmt::format("corpus.held_out_fraction: {} leaves no {} documents",
                                  config_.held_out_fraction, name),
                      "a fraction above 0");
  }

  PackedContexts packed;
  packed.context_tokens = config_.context_tokens;
  const Permutation order(members.size(), seed_,
                          is_training ? "corpus.order.training" : "corpus.order.held_out");
  const bool has_limit = is_training && config_.max_tokens > 0;
  for (std::uint64_t i = 0; i < order.size(); ++i) {
    if (has_limit && static_cast<std::int64_t>(packed.token_ids.size()) >= config_.max_tokens)
      break;
    const std::int32_t document = members[order(i)];
    const std::string_view text = texts_.text(static_cast<std::size_t>(document));
    if (config_.prepend_bos == "document") packed.token_ids.push_back(*tokenizer_->bos_id());
    const std::vector<std::int32_t> ids = tokenizer_->encode(text);
    packed.token_ids.insert(packed.token_ids.end(), ids.begin(), ids.end());
    packed.documents.resize(packed.token_ids.size(), document);
    packed.n_lost_bytes += tokenizer_->n_lost_bytes(text);
  }

  std::int64_t n_tokens = static_cast<std::int64_t>(packed.token_ids.size());
  if (has_limit) n_tokens = std::min(n_tokens, config_.max_tokens);
  packed.n_contexts = n_tokens / config_.context_tokens;
  packed.n_dropped_tokens = n_tokens % config_.context_tokens;
  if (packed.n_contexts == 0) {
    throw ConfigError(fmt::format("corpus: the {} text has {} tokens, fewer than one context of {}",
                                  name, n_tokens, config_.context_tokens),
                      "at least one full context", "add text, or lower corpus.context_tokens");
  }
  packed.token_ids.resize(static_cast<std::size_t>(packed.n_contexts * config_.context_tokens));
  packed.documents.resize(packed.token_ids.size());
  packed.positions = number_positions(packed.documents, config_.context_tokens);
  return packed;
}

}  // namespace thresher::corpus
