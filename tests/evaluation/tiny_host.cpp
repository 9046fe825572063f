#include "tests/evaluation/tiny_host.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "core/random.h"

namespace thresher::testing {
namespace {

using host_model::HookPoint;

at::Tensor visit(const host_model::ForwardRequest& request, const HookPoint& point,
                 const at::Tensor& activation) {
  const auto hook = request.hooks.find(point);
  if (hook == request.hooks.end()) return activation;
  const at::Tensor replacement = hook->second(activation);
  return replacement.defined() ? replacement : activation;
}

/// [tokens, tokens]: row t averages over the tokens that t sees.
at::Tensor averaging(const at::Tensor& documents) {
  const std::int64_t width = documents.size(1);
  const at::Tensor flat = documents.reshape({-1}).contiguous();
  const std::int64_t* document = flat.const_data_ptr<std::int64_t>();
  at::Tensor out = at::zeros({flat.numel(), flat.numel()}, at::kFloat);
  auto weight = out.accessor<float, 2>();
  for (std::int64_t t = 0; t < flat.numel(); ++t) {
    std::int64_t seen = 0;
    for (std::int64_t s = t / width * width; s <= t; ++s)
      seen += document[s] == document[t] ? 1 : 0;
    for (std::int64_t s = t / width * width; s <= t; ++s) {
      if (document[s] == document[t]) weight[t][s] = 1.0F / static_cast<float>(seen);
    }
  }
  return out;
}

}  // namespace

TinyHost::TinyHost(at::Tensor embedding, std::vector<TinyBlock> blocks, at::Tensor U)
    : embedding_(std::move(embedding)), U_(std::move(U)), blocks_(std::move(blocks)) {
  info_.family = "tiny";
  info_.fingerprint = "tiny";
  info_.n_blocks = static_cast<std::int64_t>(blocks_.size());
  info_.d_model = embedding_.size(1);
  info_.n_vocabulary = embedding_.size(0);
  info_.max_context_tokens = 1024;
}

TinyHost TinyHost::random(std::int64_t n_vocabulary, std::int64_t d_model, std::int64_t n_blocks,
                          std::int64_t sink, std::uint64_t seed) {
  at::Tensor embedding = random_tensor({n_vocabulary, d_model}, 1, seed);
  embedding.select(0, sink).fill_(60);
  std::vector<TinyBlock> blocks;
  for (std::int64_t b = 0; b < n_blocks; ++b) {
    const auto block_seed = seed + 10 * static_cast<std::uint64_t>(b + 1);
    blocks.push_back({random_tensor({d_model, d_model}, 0.1, block_seed),
                      random_tensor({d_model, d_model}, 0.3, block_seed + 1)});
  }
  return {embedding, blocks, random_tensor({d_model, n_vocabulary}, 1, seed + 5)};
}

at::Tensor TinyHost::forward(const host_model::TokenBatch& batch,
                             const host_model::ForwardRequest& request) {
  using Site = HookPoint::Site;
  THRESHER_CHECK(request.cache == nullptr, "the tiny host keeps no keys and values");
  at::Tensor resid = request.resid_pre;
  if (!resid.defined()) {
    THRESHER_CHECK(request.first_block == 0, "a late start needs its residual stream");
    resid = visit(request, {Site::kEmbed, -1},
                  embedding_.index_select(0, batch.token_ids.reshape({-1})));
  }
  for (const auto& [point, hook] : request.hooks) {
    THRESHER_CHECK(point.block < 0 || point.block >= request.first_block,
                   "a hook before the start");
  }
  const at::Tensor average = averaging(batch.documents);
  for (std::int64_t b = request.first_block; b < info_.n_blocks; ++b) {
    const TinyBlock& block = blocks_[static_cast<std::size_t>(b)];
    resid = visit(request, {Site::kResidPre, b}, resid);
    resid = resid + visit(request, {Site::kAttnOut, b}, at::mm(at::mm(average, resid), block.A));
    resid = visit(request, {Site::kResidMid, b}, resid);
    resid = resid + visit(request, {Site::kMlpOut, b}, at::mm(resid, block.M).tanh_());
    resid = visit(request, {Site::kResidPost, b}, resid);
  }
  const at::Tensor scale = resid.square().mean({1}, /*keepdim=*/true).add_(1e-5).sqrt_();
  const at::Tensor normalized = visit(request, {Site::kFinalNormalized, -1}, resid / scale);
  return request.want_final ? normalized : at::Tensor();
}

at::Tensor TinyHost::unembed(const at::Tensor& final_normalized) {
  return at::mm(final_normalized, U_);
}
at::Tensor TinyHost::unembedding() const { return U_.t(); }

std::vector<std::int32_t> PlainTokenizer::encode(std::string_view text, bool) const {
  std::vector<std::int32_t> ids;
  for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
  return ids;
}
std::string PlainTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text.push_back(static_cast<char>(id));
  return text;
}
bool PlainTokenizer::is_special(std::int32_t id) const {
  return std::find(special_.begin(), special_.end(), id) != special_.end();
}

at::Tensor random_tensor(at::IntArrayRef shape, double scale, std::uint64_t seed) {
  const RandomStream stream(seed, "tests.evaluation");
  at::Tensor out = at::empty(shape, at::kFloat);
  float* values = out.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < out.numel(); ++i) {
    values[i] = static_cast<float>(scale * stream.normal(static_cast<std::uint64_t>(i)));
  }
  return out;
}

corpus::PackedContexts random_contexts(std::int64_t n_contexts, std::int64_t context_tokens,
                                       std::int64_t n_vocabulary, std::uint64_t seed) {
  const RandomStream ids(seed, "tests.ids");
  const RandomStream lengths(seed, "tests.lengths");
  corpus::PackedContexts packed;
  packed.context_tokens = context_tokens;
  packed.n_contexts = n_contexts;
  std::int32_t document = -1;
  std::uint64_t left = 0;
  for (std::int64_t i = 0; i < n_contexts * context_tokens; ++i, --left) {
    const bool is_new = left == 0;
    if (is_new)
      left = 1 + lengths.below(static_cast<std::uint64_t>(++document), 2 * context_tokens);
    packed.token_ids.push_back(static_cast<std::int32_t>(
        ids.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(n_vocabulary))));
    packed.documents.push_back(document);
    packed.positions.push_back(is_new || i % context_tokens == 0 ? 0 : packed.positions.back() + 1);
  }
  return packed;
}

}  // namespace thresher::testing
