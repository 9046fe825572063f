#include "features/co_firing.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/byte_reader.h"
#include "core/error.h"

namespace thresher::features {
namespace {

template <class T>
void append(std::vector<std::byte>& bytes, std::span<const T> values) {
  const auto raw = std::as_bytes(values);
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

std::int64_t pairs_of(std::size_t n) { return static_cast<std::int64_t>(n * n); }

bool is_better(const CoFiringSample::Partner& a, const CoFiringSample::Partner& b) {
  if (a.jaccard != b.jaccard) return a.jaccard > b.jaccard;
  if (a.n_both != b.n_both) return a.n_both > b.n_both;
  return a.latent < b.latent;
}

}  // namespace

CoFiringSample::CoFiringSample(std::int64_t max_pairs, std::uint64_t seed)
    : max_pairs_(max_pairs),
      draws_(seed, "features.co_firing"),
      limit_(std::numeric_limits<std::uint64_t>::max()) {}

void CoFiringSample::offer(std::int64_t token, std::vector<std::int32_t> latents) {
  const std::uint64_t key = draws_.bits(static_cast<std::uint64_t>(token));
  if (key >= limit_) {
    is_complete_ = false;
    return;
  }
  insert({key, std::move(latents)});
}

void CoFiringSample::insert(Token token) {
  const auto by_key = [](const Token& a, const Token& b) { return a.key < b.key; };
  n_pairs_ += pairs_of(token.latents.size());
  tokens_.push_back(std::move(token));
  std::push_heap(tokens_.begin(), tokens_.end(), by_key);
  while (n_pairs_ > max_pairs_) {
    std::pop_heap(tokens_.begin(), tokens_.end(), by_key);
    limit_ = tokens_.back().key;
    n_pairs_ -= pairs_of(tokens_.back().latents.size());
    tokens_.pop_back();
    is_complete_ = false;
  }
}

std::vector<std::byte> CoFiringSample::pack() const {
  std::vector<std::byte> bytes;
  append(bytes, std::span(&limit_, 1));
  for (const Token& token : tokens_) {
    const auto n = static_cast<std::uint64_t>(token.latents.size());
    append(bytes, std::span(&token.key, 1));
    append(bytes, std::span(&n, 1));
    append(bytes, std::span<const std::int32_t>(token.latents));
  }
  return bytes;
}

void CoFiringSample::merge(std::span<const std::byte> bytes) {
  ByteReader reader(bytes, "sample of another rank");
  const auto limit = reader.read<std::uint64_t>("limit");
  if (limit != std::numeric_limits<std::uint64_t>::max()) is_complete_ = false;
  limit_ = std::min(limit_, limit);
  std::vector<Token> all = std::exchange(tokens_, {});
  n_pairs_ = 0;
  while (reader.remaining() > 0) {
    Token token;
    token.key = reader.read<std::uint64_t>("key");
    const auto n = reader.read<std::uint64_t>("count");
    token.latents.resize(n);
    const auto raw = reader.take(n * sizeof(std::int32_t), "latents");
    std::copy(raw.begin(), raw.end(), std::as_writable_bytes(std::span(token.latents)).begin());
    all.push_back(std::move(token));
  }
  for (Token& token : all) {
    if (token.key < limit_) insert(std::move(token));
  }
}

void CoFiringSample::count(
    std::int64_t n_latents, std::int64_t n_best,
    const std::function<void(std::int64_t, const std::vector<Partner>&)>& found) const {
  std::vector<std::int64_t> begin(static_cast<std::size_t>(n_latents) + 1);
  for (const Token& token : tokens_) {
    for (const std::int32_t latent : token.latents) ++begin[latent + 1];
  }
  for (std::int64_t latent = 0; latent < n_latents; ++latent) begin[latent + 1] += begin[latent];
  std::vector<std::int32_t> tokens_of(static_cast<std::size_t>(begin.back()));
  std::vector<std::int64_t> next(begin.begin(), begin.end() - 1);
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    for (const std::int32_t latent : tokens_[i].latents) {
      tokens_of[next[latent]++] = static_cast<std::int32_t>(i);
    }
  }
  const auto n_fired = [&](std::int64_t latent) { return begin[latent + 1] - begin[latent]; };
  std::vector<std::int32_t> both(static_cast<std::size_t>(n_latents)), seen;
  std::vector<Partner> partners;
  for (std::int64_t latent = 0; latent < n_latents; ++latent) {
    for (std::int64_t i = begin[latent]; i < begin[latent + 1]; ++i) {
      for (const std::int32_t other : tokens_[tokens_of[i]].latents) {
        if (other != latent && both[other]++ == 0) seen.push_back(other);
      }
    }
    partners.clear();
    for (const std::int32_t other : seen) {
      const auto n_both = static_cast<double>(std::exchange(both[other], 0));
      const auto a = static_cast<double>(n_fired(latent));
      const auto b = static_cast<double>(n_fired(other));
      partners.push_back({other, static_cast<std::int64_t>(n_both), n_both / (a + b - n_both),
                          std::log(n_both * static_cast<double>(tokens_.size()) / (a * b))});
    }
    seen.clear();
    const auto n = std::min<std::size_t>(partners.size(), static_cast<std::size_t>(n_best));
    std::partial_sort(partners.begin(), partners.begin() + static_cast<std::ptrdiff_t>(n),
                      partners.end(), is_better);
    partners.resize(n);
    found(latent, partners);
  }
}

}  // namespace thresher::features
