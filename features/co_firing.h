#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/random.h"

namespace thresher::features {

/// Tokens whose active latents are kept, to count which latents fire together. A token is ranked by
/// a hash of its number; kept are the tokens of lowest hash for which the pairs of active latents
/// (the squares of their numbers, summed) stay within `max_pairs`: all tokens of a small text, a
/// uniform sample of a large one, the same sample whatever the order of the offers or their split
/// between objects that are merged.
class CoFiringSample {
 public:
  CoFiringSample(std::int64_t max_pairs, std::uint64_t seed);
  /// A token by its number in the text, with the latents that fire on it (distinct).
  void offer(std::int64_t token, std::vector<std::int32_t> latents);
  std::vector<std::byte> pack() const;
  void merge(std::span<const std::byte> bytes);

  std::int64_t n_tokens() const { return static_cast<std::int64_t>(tokens_.size()); }
  /// True if no token that was offered was left out.
  bool is_complete() const { return is_complete_; }

  struct Partner {
    std::int64_t latent = 0;
    std::int64_t n_both = 0;
    double jaccard = 0;
    double pmi = 0;
  };
  /// For each latent in turn its `n_best` partners of highest Jaccard index (ties: more tokens in
  /// common, then the lower number). Memory: one more list of the sample, and n_latents counters.
  void count(
      std::int64_t n_latents, std::int64_t n_best,
      const std::function<void(std::int64_t latent, const std::vector<Partner>&)>& found) const;

 private:
  struct Token {
    std::uint64_t key = 0;
    std::vector<std::int32_t> latents;
  };
  void insert(Token token);

  std::int64_t max_pairs_;
  RandomStream draws_;
  std::vector<Token> tokens_;  // a heap, the highest key on top
  std::int64_t n_pairs_ = 0;
  std::uint64_t limit_;  // keys from here on are left out
  bool is_complete_ = true;
};

}  // namespace thresher::features
