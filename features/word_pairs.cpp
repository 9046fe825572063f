#include "features/word_pairs.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <sstream>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/visible_text.h"
#include "features/statistics.h"

namespace thresher::features {
namespace {

constexpr std::uint64_t kLargestFile = 1 << 20;
constexpr std::int64_t kBlockRows = 8192, kRandomDraws = 99;

using TokenPairs = std::vector<std::pair<std::int32_t, std::int32_t>>;

/// second - first, [pairs, d_model] float64.
at::Tensor differences(const TokenPairs& pairs, const at::Tensor& unembedding) {
  std::vector<std::int64_t> first, second;
  for (const auto& [a, b] : pairs) {
    first.push_back(a);
    second.push_back(b);
  }
  return unembedding.index_select(0, at::tensor(second, at::kLong)).to(at::kDouble) -
         unembedding.index_select(0, at::tensor(first, at::kLong)).to(at::kDouble);
}

/// Mean over rows of the causal cosine with the mean of the other rows.
double alignment(const at::Tensor& rows, const CausalInnerProduct& product) {
  const at::Tensor gram = at::matmul(rows, product.dual(rows).t()).contiguous();
  const std::int64_t n = gram.size(0);
  const double* g = gram.const_data_ptr<double>();
  std::vector<double> row_sums(static_cast<std::size_t>(n));
  double total = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) row_sums[static_cast<std::size_t>(i)] += g[i * n + j];
    total += row_sums[static_cast<std::size_t>(i)];
  }
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double own = g[i * n + i], with_all = row_sums[static_cast<std::size_t>(i)];
    const double others = total - 2 * with_all + own;
    if (own > 0 && others > 0) sum += (with_all - own) / std::sqrt(own * others);
  }
  return sum / static_cast<double>(n);
}

}  // namespace

WordPairs read_word_pairs(const std::filesystem::path& path, const corpus::Tokenizer& tokenizer) {
  WordPairs out;
  out.name = path.stem().string();
  std::istringstream lines(read_text_file(path, kLargestFile));
  std::string line;
  for (std::int64_t number = 1; std::getline(lines, line); ++number) {
    std::istringstream words(line);
    std::string first, second, more;
    if (!(words >> first)) continue;
    if (!(words >> second) || (words >> more)) {
      throw ConfigError(fmt::format("{}:{}: {}", display_path(path), number, visible_text(line)),
                        "two words a line");
    }
    const std::vector<std::int32_t> a = tokenizer.encode(" " + first),
                                    b = tokenizer.encode(" " + second);
    if (a.size() == 1 && b.size() == 1 && a[0] != b[0]) {
      out.tokens.emplace_back(a[0], b[0]);
    } else {
      out.left_out.push_back(line);
    }
  }
  if (out.tokens.size() < 3) {
    throw ConfigError(fmt::format("{}: {} pairs of words that are one token each",
                                  display_path(path), out.tokens.size()),
                      "at least three");
  }
  return out;
}

CausalInnerProduct::CausalInnerProduct(const at::Tensor& unembedding) : unembedding_(&unembedding) {
  const std::int64_t n = unembedding.size(0), d = unembedding.size(1);
  const at::Tensor mean = unembedding.mean(0, false, at::kDouble);
  at::Tensor covariance = at::zeros({d, d}, at::kDouble);
  for (std::int64_t first = 0; first < n; first += kBlockRows) {
    const at::Tensor rows =
        unembedding.narrow(0, first, std::min(kBlockRows, n - first)).to(at::kDouble) - mean;
    covariance += at::matmul(rows.t(), rows);
  }
  covariance /= static_cast<double>(n);
  // Directions in which no row varies have no finite inverse; they get a millionth of the mean.
  const double floor = 1e-6 * covariance.trace().item<double>() / static_cast<double>(d);
  cholesky_ = at::linalg_cholesky(covariance + (floor + 1e-300) * at::eye(d, at::kDouble));
}

at::Tensor CausalInnerProduct::dual(const at::Tensor& rows) const {
  return at::cholesky_solve(rows.to(at::kDouble).t(), cholesky_).t();
}

ConceptDirection concept_direction(const WordPairs& pairs, const CausalInnerProduct& product,
                                   std::uint64_t seed) {
  const at::Tensor& unembedding = product.unembedding();
  const at::Tensor rows = differences(pairs.tokens, unembedding);
  ConceptDirection out;
  out.name = pairs.name;
  out.n_pairs = static_cast<std::int64_t>(pairs.tokens.size());
  const at::Tensor mean = rows.mean(0);
  const at::Tensor dual = product.dual(mean.unsqueeze(0)).squeeze(0);
  const double norm = std::sqrt(at::dot(mean, dual).item<double>());
  out.reading = (mean / norm).to(at::kFloat);
  out.writing = (dual / norm).to(at::kFloat);
  out.alignment = alignment(rows, product);

  const auto n_tokens = static_cast<std::uint64_t>(unembedding.size(0));
  const RandomStream random(seed, "word_pairs.random");
  std::vector<double> found;
  std::uint64_t index = 0;
  for (std::int64_t draw = 0; draw < kRandomDraws; ++draw) {
    TokenPairs tokens;
    for (std::int64_t i = 0; i < out.n_pairs; ++i, index += 2) {
      tokens.emplace_back(static_cast<std::int32_t>(random.below(index, n_tokens)),
                          static_cast<std::int32_t>(random.below(index + 1, n_tokens)));
    }
    found.push_back(alignment(differences(tokens, unembedding), product));
  }
  out.random_alignment_p95 = quantile(found, 0.95);
  return out;
}

}  // namespace thresher::features
