#include "host_model/kv_cache.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "host_model/generation.h"
#include "tests/host_model/tiny_llama.h"

namespace thresher::host_model {
namespace {

using testing::batch_of;
using testing::load;
using testing::some_ids;
using testing::tiny_llama;

at::Tensor run(HostModel& model, const TokenBatch& batch, KvCache* cache = nullptr) {
  ForwardRequest request;
  request.want_final = true;
  request.cache = cache;
  return model.forward(batch, request);
}

TokenBatch columns(const TokenBatch& batch, std::int64_t first, std::int64_t count) {
  const auto cut = [&](const at::Tensor& part) {
    return part.narrow(1, first, count).contiguous();
  };
  return {cut(batch.token_ids), cut(batch.positions), cut(batch.documents)};
}

/// The rows of a pass in pieces, each continuing the one before.
at::Tensor run_in_pieces(HostModel& model, const TokenBatch& batch,
                         const std::vector<std::int64_t>& pieces, KvCache& cache) {
  std::vector<at::Tensor> rows;
  std::int64_t first = 0;
  const std::int64_t contexts = batch.token_ids.size(0);
  for (const std::int64_t count : pieces) {
    rows.push_back(run(model, columns(batch, first, count), &cache).view({contexts, count, -1}));
    first += count;
  }
  return at::cat(rows, 1);
}

testing::GgufBuilder windowed() {
  testing::GgufBuilder file = tiny_llama();
  file.uint32("llama.attention.sliding_window", 3);
  return file;
}

TEST(KvCache, ContinuesToTheSameRowsAsOnePassOverAllTokens) {
  for (const bool has_window : {false, true}) {
    const auto model = load(has_window ? windowed() : tiny_llama());
    const TokenBatch batch = batch_of(some_ids(3, 11));
    const at::Tensor whole = run(*model, batch).view({3, 11, -1});
    for (const std::int64_t expected : {0, 5, 11}) {
      KvCache cache(expected);
      const at::Tensor pieces = run_in_pieces(*model, batch, {4, 1, 1, 3, 2}, cache);
      EXPECT_LT((pieces - whole).abs().max().item<double>(), 1e-5) << expected;
      EXPECT_EQ(cache.n_contexts(), 3);
      EXPECT_EQ(cache.n_tokens(), 11);
    }
  }
}

TEST(KvCache, ContinuesInBfloat16WithinItsRounding) {
  const auto model = load(tiny_llama(), "bfloat16");
  const TokenBatch batch = batch_of(some_ids(2, 9));
  const at::Tensor whole = run(*model, batch).view({2, 9, -1});
  KvCache cache;
  const at::Tensor pieces = run_in_pieces(*model, batch, {5, 1, 3}, cache);
  EXPECT_LT(((pieces - whole).norm() / whole.norm()).item<double>(), 0.02);
}

TEST(KvCache, LetsNoPaddingChangeAnything) {
  for (const bool has_window : {false, true}) {
    const auto model = load(has_window ? windowed() : tiny_llama());
    const std::vector<std::vector<std::int32_t>> contexts = {
        {1, 2, 3, 4, 5, 6, 7}, {8, 9, 10}, {11, 12, 13, 14, 15}};
    PassRows rows = align_contexts(contexts);
    KvCache cache;
    const at::Tensor first = run(*model, rows.batch, &cache).view({3, 7, -1});
    const TokenBatch next = {at::tensor({20, 21, 22}, at::kLong).view({3, 1}),
                             rows.prompt_tokens.unsqueeze(1), at::zeros({3, 1}, at::kLong)};
    const at::Tensor second = run(*model, next, &cache);
    for (std::size_t c = 0; c < contexts.size(); ++c) {
      std::vector<std::int64_t> ids(contexts[c].begin(), contexts[c].end());
      ids.push_back(20 + static_cast<std::int64_t>(c));
      const auto length = static_cast<std::int64_t>(ids.size());
      const at::Tensor alone = run(*model, batch_of(at::tensor(ids, at::kLong).view({1, length})));
      const auto row = static_cast<std::int64_t>(c);
      EXPECT_LT((first[row].narrow(0, 8 - length, length - 1) - alone.narrow(0, 0, length - 1))
                    .abs()
                    .max()
                    .item<double>(),
                1e-5);
      EXPECT_LT((second[row] - alone[length - 1]).abs().max().item<double>(), 1e-5);
    }
    // Other padding, the same rows.
    rows.batch.token_ids[1][0] = 49;
    EXPECT_TRUE(at::equal(run(*model, rows.batch).view({3, 7, -1})[1].narrow(0, 4, 3),
                          first[1].narrow(0, 4, 3)));
  }
}

TEST(KvCache, SelectsContextsInAnyOrderAndTwice) {
  const auto model = load(tiny_llama());
  const TokenBatch batch = batch_of(some_ids(3, 8));
  const at::Tensor whole = run(*model, batch).view({3, 8, -1});
  KvCache cache;
  run(*model, columns(batch, 0, 5), &cache);
  const at::Tensor order = at::tensor({2, 0, 2}, at::kLong);
  KvCache chosen = cache.select(order);
  TokenBatch rest = columns(batch, 5, 3);
  for (at::Tensor* part : {&rest.token_ids, &rest.positions, &rest.documents})
    *part = part->index_select(0, order);
  const at::Tensor rows = run(*model, rest, &chosen).view({3, 3, -1});
  EXPECT_LT((rows - whole.index_select(0, order).narrow(1, 5, 3)).abs().max().item<double>(), 1e-5);
  EXPECT_EQ(cache.n_tokens(), 5) << "the copy wrote into the original";
  const at::Tensor original = run(*model, columns(batch, 5, 3), &cache).view({3, 3, -1});
  EXPECT_LT((original - whole.narrow(1, 5, 3)).abs().max().item<double>(), 1e-5);
}

TEST(KvCache, ContinuesFromALaterBlock) {
  const auto model = load(tiny_llama());
  const TokenBatch batch = batch_of(some_ids(2, 6));
  at::Tensor resid;
  ForwardRequest keep;
  keep.hooks[HookPoint::parse("blocks.1.hook_resid_pre")] = [&](const at::Tensor& activation) {
    resid = activation.clone().view({2, 6, -1});
    return at::Tensor();
  };
  keep.want_final = true;
  const at::Tensor whole = model->forward(batch, keep).view({2, 6, -1});
  KvCache cache;
  ForwardRequest request;
  request.first_block = 1;
  request.want_final = true;
  request.cache = &cache;
  request.resid_pre = resid.narrow(1, 0, 4).reshape({8, -1});
  model->forward(columns(batch, 0, 4), request);
  request.resid_pre = resid.narrow(1, 4, 2).reshape({4, -1});
  const at::Tensor rows = model->forward(columns(batch, 4, 2), request).view({2, 2, -1});
  EXPECT_LT((rows - whole.narrow(1, 4, 2)).abs().max().item<double>(), 1e-5);
  request.first_block = 0;
  request.resid_pre = at::Tensor();
  EXPECT_THROW(model->forward(columns(batch, 4, 2), request), InternalError)
      << "block 0 has seen nothing";
}

TEST(KvCache, RefusesAnotherNumberOfContexts) {
  const auto model = load(tiny_llama());
  KvCache cache;
  run(*model, batch_of(some_ids(3, 4)), &cache);
  EXPECT_THROW(run(*model, batch_of(some_ids(2, 1)), &cache), InternalError);
}

}  // namespace
}  // namespace thresher::host_model
