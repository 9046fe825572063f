#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <vector>

#include "corpus/corpus.h"
#include "corpus/tokenizer.h"
#include "host_model/host_model.h"

namespace thresher::testing {

struct TinyBlock {
  at::Tensor A, M;  // [d, d]
};

/// A host model that a few lines of NumPy can repeat. In a block
///
///     attn_out = (mean of the residual stream over this and earlier tokens of the document in the
///     context) A mlp_out  = tanh(resid_mid M)
///
/// and at the end normalized = resid / sqrt(mean(resid^2) + 1e-5), logits = normalized U.
class TinyHost : public host_model::HostModel {
 public:
  TinyHost(at::Tensor embedding, std::vector<TinyBlock> blocks, at::Tensor U);
  /// Weights drawn by `seed`; all elements of the embedding of token `sink` are 60, those of others
  /// about 1.
  static TinyHost random(std::int64_t n_vocabulary, std::int64_t d_model, std::int64_t n_blocks,
                         std::int64_t sink, std::uint64_t seed);

  const host_model::HostModelInfo& info() const override { return info_; }
  at::Tensor forward(const host_model::TokenBatch& batch,
                     const host_model::ForwardRequest& request) override;
  at::Tensor unembed(const at::Tensor& final_normalized) override;
  at::Tensor unembedding() const override;

 private:
  host_model::HostModelInfo info_;
  at::Tensor embedding_, U_;
  std::vector<TinyBlock> blocks_;
};

/// Ids are bytes; nothing is special but the ids given.
class PlainTokenizer : public corpus::Tokenizer {
 public:
  explicit PlainTokenizer(std::vector<std::int32_t> special = {}) : special_(std::move(special)) {}
  std::vector<std::int32_t> encode(std::string_view text, bool parse_special) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::int64_t vocabulary_size() const override { return 256; }
  std::optional<std::int32_t> bos_id() const override { return std::nullopt; }
  std::optional<std::int32_t> eos_id() const override { return std::nullopt; }
  bool is_special(std::int32_t id) const override;
  std::string fingerprint() const override { return "plain"; }

 private:
  std::vector<std::int32_t> special_;
};

/// Values drawn by `seed`, standard normal times `scale`.
at::Tensor random_tensor(at::IntArrayRef shape, double scale, std::uint64_t seed);

/// Contexts of random tokens in documents of random lengths from 1 to 2 * context_tokens.
corpus::PackedContexts random_contexts(std::int64_t n_contexts, std::int64_t context_tokens,
                                       std::int64_t n_vocabulary, std::uint64_t seed);

}  // namespace thresher::testing
