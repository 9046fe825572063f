#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace thresher::host_model {

/// Keys and values of the tokens that a model has read, so that a later pass computes new tokens
/// only. One cache belongs to one model and one batch of contexts. Made empty; the first pass with
/// it decides the number of contexts. A pass adds its tokens to every context; contexts of
/// different length are aligned by padding in front, tokens with a document number of -1 that no
/// other document sees.
///
/// A pass must compute every block whose tokens a later pass is to see (want_final does), and start
/// where the first one started. After a pass that threw, the cache is of no use.
class KvCache {
 public:
  struct Rows {
    at::Tensor keys;    // [n_contexts, n_kv_heads, tokens, d_head]; rotary applied
    at::Tensor values;  // the same shape
  };

  /// Memory is taken for `expected_tokens` a context at once, and grows where they are exceeded.
  explicit KvCache(std::int64_t expected_tokens = 0) : expected_tokens_(expected_tokens) {}

  std::int64_t n_contexts() const { return documents_.defined() ? documents_.size(0) : 0; }
  std::int64_t n_tokens() const { return n_tokens_; }  // a context, padding included
  /// [n_contexts, n_tokens] int64, host memory.
  const at::Tensor& documents() const { return documents_; }
  const at::Tensor& positions() const { return positions_; }

  /// A copy that holds the contexts numbered in `contexts` (int64, repeats allowed), in that order.
  KvCache select(const at::Tensor& contexts) const;

  // What follows is for models.

  /// Starts a pass over new tokens [n_contexts, tokens] int64.
  void begin_pass(const at::Tensor& documents, const at::Tensor& positions);
  /// Adds what a block made of the new tokens and returns all of it, as views. A check fails where
  /// the block has not seen the tokens before.
  Rows append(std::int64_t block, const Rows& fresh);

 private:
  std::int64_t expected_tokens_ = 0;
  std::int64_t n_tokens_ = 0;
  at::Tensor documents_, positions_;
  std::vector<Rows> blocks_;            // with room for more tokens
  std::vector<std::int64_t> n_filled_;  // tokens, one a block
};

}  // namespace thresher::host_model
