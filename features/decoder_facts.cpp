#include "features/decoder_facts.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <utility>

#include "core/byte_reader.h"

namespace thresher::features {
namespace {

constexpr std::int64_t kBlockValues = 1 << 24;
constexpr std::int64_t kMaxBlockLatents = 256;

/// The `n_best` largest of sign * values, ties to the lower index; `skip` is left out.
Ranked best_of(const float* values, std::int64_t count, std::int64_t n_best, std::int64_t skip,
               float sign) {
  Ranked out;
  const auto size = static_cast<std::size_t>(n_best);
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = sign * values[i];
    if (i == skip || (out.size() == size && !(value > sign * out.back().second))) continue;
    if (out.size() == size) out.pop_back();
    auto place = out.end();
    while (place != out.begin() && sign * std::prev(place)->second < value) --place;
    out.insert(place, {static_cast<std::int32_t>(i), values[i]});
  }
  return out;
}

void append(std::vector<std::byte>& bytes, const Ranked& list) {
  const auto n = static_cast<std::int32_t>(list.size());
  const auto head = std::as_bytes(std::span(&n, 1));
  bytes.insert(bytes.end(), head.begin(), head.end());
  for (const auto& [number, figure] : list) {
    const auto a = std::as_bytes(std::span(&number, 1)), b = std::as_bytes(std::span(&figure, 1));
    bytes.insert(bytes.end(), a.begin(), a.end());
    bytes.insert(bytes.end(), b.begin(), b.end());
  }
}

Ranked read_ranked(ByteReader& reader) {
  Ranked out;
  const auto n = reader.read<std::int32_t>("count");
  for (std::int32_t i = 0; i < n; ++i) {
    const auto number = reader.read<std::int32_t>("number");
    out.emplace_back(number, reader.read<float>("figure"));
  }
  return out;
}

}  // namespace

DecoderProducts::DecoderProducts(const at::Tensor& W_dec, at::Tensor unembedding,
                                 std::int64_t n_best)
    : W_dec_(W_dec.contiguous()), unembedding_(std::move(unembedding)), n_best_(n_best) {
  directions_ = W_dec_ / W_dec_.norm(2, {1}, /*keepdim=*/true).clamp_min(1e-12);
  const std::int64_t widest =
      std::max(W_dec_.size(0), unembedding_.defined() ? unembedding_.size(0) : 0);
  block_latents_ = std::clamp<std::int64_t>(kBlockValues / widest, 1, kMaxBlockLatents);
}

std::int64_t DecoderProducts::n_blocks() const {
  return (W_dec_.size(0) + block_latents_ - 1) / block_latents_;
}

std::int64_t DecoderProducts::end(std::int64_t block) const {
  return std::min(first(block + 1), W_dec_.size(0));
}

at::Tensor DecoderProducts::cosines(std::int64_t block) const {
  return at::mm(directions_.slice(0, first(block), end(block)), directions_.t());
}

at::Tensor DecoderProducts::effects(std::int64_t block) const {
  if (!unembedding_.defined()) return at::empty({end(block) - first(block), 0}, at::kFloat);
  return at::mm(W_dec_.slice(0, first(block), end(block)), unembedding_.t());
}

std::vector<DecoderFacts> DecoderProducts::block(std::int64_t index) const {
  const at::Tensor by_latent = cosines(index), by_token = effects(index);
  const std::int64_t n = by_latent.size(1), n_tokens = by_token.size(1);
  std::vector<DecoderFacts> out(static_cast<std::size_t>(by_latent.size(0)));
  const auto* cosine = by_latent.const_data_ptr<float>();
  const auto* effect = by_token.const_data_ptr<float>();
  at::parallel_for(0, by_latent.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      DecoderFacts& facts = out[static_cast<std::size_t>(row)];
      facts.neighbours = best_of(cosine + row * n, n, n_best_, first(index) + row, 1.0F);
      facts.promoted = best_of(effect + row * n_tokens, n_tokens, n_best_, -1, 1.0F);
      facts.suppressed = best_of(effect + row * n_tokens, n_tokens, n_best_, -1, -1.0F);
    }
  });
  return out;
}

std::vector<std::byte> pack(const std::vector<DecoderFacts>& facts) {
  std::vector<std::byte> bytes;
  for (const DecoderFacts& one : facts) {
    append(bytes, one.neighbours);
    append(bytes, one.promoted);
    append(bytes, one.suppressed);
  }
  return bytes;
}

std::vector<DecoderFacts> unpack(std::span<const std::byte> bytes, std::int64_t count) {
  ByteReader reader(bytes, "decoder facts of another rank");
  std::vector<DecoderFacts> out(static_cast<std::size_t>(count));
  for (DecoderFacts& one : out) {
    one.neighbours = read_ranked(reader);
    one.promoted = read_ranked(reader);
    one.suppressed = read_ranked(reader);
  }
  return out;
}

}  // namespace thresher::features
