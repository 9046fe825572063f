#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "corpus/tokenizer.h"

namespace thresher::features {

/// Counterfactual pairs: words that differ in one concept ("king queen").
struct WordPairs {
  std::string name;  // of the file, without its ending
  std::vector<std::pair<std::int32_t, std::int32_t>> tokens;
  std::vector<std::string> left_out;  // lines with a word that is not one token
};

/// Two words a line, apart by a space; a word stands for its token behind a space. ConfigError for
/// another line, and for fewer than three pairs whose words are one token each.
WordPairs read_word_pairs(const std::filesystem::path& path, const corpus::Tokenizer& tokenizer);

/// The causal inner product on the unembedding's rows (Park, Choe and Veitch 2023,
/// arXiv:2311.03658): <a, b> = a Cov^-1 b, where Cov is the covariance of the rows over the
/// vocabulary. Under it words that can be changed independently are orthogonal. Float64.
class CausalInnerProduct {
 public:
  /// `unembedding` [n_vocabulary, d_model] float32; must outlive the object.
  explicit CausalInnerProduct(const at::Tensor& unembedding);
  /// Rows [n, d_model] through Cov^-1: what is added to an activation to change these concepts.
  at::Tensor dual(const at::Tensor& rows) const;
  const at::Tensor& unembedding() const { return *unembedding_; }

 private:
  const at::Tensor* unembedding_;
  at::Tensor cholesky_;  // of the covariance
};

/// The direction of a concept from its pairs: the mean of second - first.
struct ConceptDirection {
  std::string name;
  std::int64_t n_pairs = 0;
  /// Mean difference of the rows, [d_model] float32, of causal norm 1: its product with a final
  /// activation is how much more likely the second words are. Reads the concept.
  at::Tensor reading;
  /// The same through Cov^-1: changes the concept and, to first order, nothing independent of it.
  at::Tensor writing;
  /// Mean causal cosine of a pair's difference with the mean of all others', and the 95th
  /// percentile of the same for as many pairs of random tokens, in 99 draws.
  double alignment = 0, random_alignment_p95 = 0;
};
ConceptDirection concept_direction(const WordPairs& pairs, const CausalInnerProduct& product,
                                   std::uint64_t seed);

}  // namespace thresher::features
