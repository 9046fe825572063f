#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace thresher::features {

using Ranked = std::vector<std::pair<std::int32_t, float>>;  // (number, figure), best first

/// What a decoder direction says by itself.
struct DecoderFacts {
  Ranked neighbours;            // other latents by the cosine of their directions
  Ranked promoted, suppressed;  // tokens by W_dec U^T, the change of a logit a unit of the latent
};

/// Products of blocks of latents, so that neither [n, n] nor [n, n_vocabulary] ever exists. Ties
/// go to the lower number.
class DecoderProducts {
 public:
  /// W_dec [n, d] float32; unembedding [n_vocabulary, d] float32, undefined where the SAE does not
  /// read the residual stream's width: then no token is promoted.
  DecoderProducts(const at::Tensor& W_dec, at::Tensor unembedding, std::int64_t n_best);
  std::int64_t n_blocks() const;
  /// Of the latents of a block, in order.
  std::vector<DecoderFacts> block(std::int64_t index) const;
  std::int64_t first(std::int64_t block) const { return block * block_latents_; }
  std::int64_t end(std::int64_t block) const;
  /// The products of a block alone, for a comparison of threads.
  at::Tensor cosines(std::int64_t block) const;
  at::Tensor effects(std::int64_t block) const;

 private:
  at::Tensor W_dec_, directions_, unembedding_;
  std::int64_t n_best_, block_latents_;
};

std::vector<std::byte> pack(const std::vector<DecoderFacts>& facts);
std::vector<DecoderFacts> unpack(std::span<const std::byte> bytes, std::int64_t count);

}  // namespace thresher::features
