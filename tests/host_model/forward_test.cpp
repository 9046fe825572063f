#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <atomic>

#include "core/error.h"
#include "host_model/host_model.h"
#include "tests/host_model/tiny_llama.h"

namespace thresher::host_model {
namespace {

using testing::batch_of;
using testing::GgufBuilder;
using testing::load;
using testing::some_ids;
using testing::tiny_llama;

HookFunction keep(at::Tensor& place) {
  return [&place](const at::Tensor& activation) {
    place = activation;
    return at::Tensor();
  };
}

HookFunction replace_with(const at::Tensor& value) {
  return [value](const at::Tensor&) { return value; };
}

/// All activations of a pass by name, cloned when shown.
std::map<std::string, at::Tensor> record(HostModel& model, const TokenBatch& batch,
                                         const std::map<std::string, HookFunction>& also = {}) {
  std::map<std::string, at::Tensor> records;
  ForwardRequest request;
  std::vector<std::string> names = {"hook_embed", "ln_final.hook_normalized"};
  for (std::int64_t block = 0; block < model.info().n_blocks; ++block) {
    for (const char* site : {"resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"}) {
      names.push_back(fmt::format("blocks.{}.hook_{}", block, site));
    }
  }
  for (const std::string& name : names) {
    request.hooks[HookPoint::parse(name)] = [&records, &also, name](const at::Tensor& activation) {
      const auto extra = also.find(name);
      const at::Tensor replacement = extra == also.end() ? at::Tensor() : extra->second(activation);
      records[name] = (replacement.defined() ? replacement : activation).clone();
      return replacement;
    };
  }
  model.forward(batch, request);
  return records;
}

at::Tensor run(HostModel& model, const TokenBatch& batch) {
  ForwardRequest request;
  request.want_final = true;
  return model.forward(batch, request);
}

TEST(Forward, CallsHooksInTheOrderOfComputation) {
  const auto model = load(tiny_llama({.n_blocks = 2}));
  std::vector<std::string> order;
  ForwardRequest request;
  for (const char* name :
       {"blocks.1.hook_resid_post", "ln_final.hook_normalized", "blocks.1.hook_attn_out",
        "blocks.0.hook_mlp_out", "hook_embed", "blocks.0.hook_resid_mid", "blocks.1.hook_resid_pre",
        "blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_mlp_out",
        "blocks.0.hook_attn_out", "blocks.1.hook_resid_mid"}) {
    request.hooks[HookPoint::parse(name)] = [&order, name](const at::Tensor& activation) {
      EXPECT_EQ(activation.sizes(), (at::IntArrayRef{10, 32})) << name;
      order.emplace_back(name);
      return at::Tensor();
    };
  }
  model->forward(batch_of(some_ids(2, 5)), request);
  EXPECT_EQ(order,
            (std::vector<std::string>{
                "hook_embed", "blocks.0.hook_resid_pre", "blocks.0.hook_attn_out",
                "blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out", "blocks.0.hook_resid_post",
                "blocks.1.hook_resid_pre", "blocks.1.hook_attn_out", "blocks.1.hook_resid_mid",
                "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post", "ln_final.hook_normalized"}));
}

TEST(Forward, AddsWhatAttentionAndMlpGiveToTheResidualStream) {
  const auto model = load(tiny_llama());
  const auto seen = record(*model, batch_of(some_ids(2, 7)));
  for (int block = 0; block < 3; ++block) {
    const auto at_site = [&](const char* site) {
      return seen.at(fmt::format("blocks.{}.hook_{}", block, site));
    };
    EXPECT_TRUE(at::equal(at_site("resid_mid"), at_site("resid_pre") + at_site("attn_out")));
    EXPECT_TRUE(at::equal(at_site("resid_post"), at_site("resid_mid") + at_site("mlp_out")));
  }
  const at::Tensor last = seen.at("blocks.2.hook_resid_post").to(at::kDouble);
  const at::Tensor normalized = last / (last.square().mean(1, true) + 1e-5).sqrt();
  EXPECT_TRUE(
      at::allclose(seen.at("ln_final.hook_normalized").to(at::kDouble), normalized, 1e-5, 1e-6));
}

TEST(Forward, HonoursAReplacementEverywhereAfterIt) {
  const auto model = load(tiny_llama());
  const TokenBatch batch = batch_of(some_ids(2, 6));
  const auto plain = record(*model, batch);
  const at::Tensor other = at::linspace(-1, 1, 12 * 32).view({12, 32});
  const auto seen = record(*model, batch, {{"blocks.1.hook_resid_pre", replace_with(other)}});
  EXPECT_TRUE(at::equal(seen.at("blocks.0.hook_resid_post"), plain.at("blocks.0.hook_resid_post")));
  EXPECT_TRUE(
      at::equal(seen.at("blocks.1.hook_resid_mid"), other + seen.at("blocks.1.hook_attn_out")));
  EXPECT_FALSE(at::equal(seen.at("blocks.1.hook_attn_out"), plain.at("blocks.1.hook_attn_out")));
  EXPECT_FALSE(
      at::equal(seen.at("ln_final.hook_normalized"), plain.at("ln_final.hook_normalized")));
  const at::Tensor unchanged = at::linspace(-1, 1, 12 * 32).view({12, 32});
  EXPECT_TRUE(at::equal(other, unchanged)) << "the pass wrote into the caller's replacement";
}

TEST(Forward, NeverWritesIntoMemoryThatAReplacementBorrows) {
  const auto model = load(tiny_llama());
  std::vector<float> borrowed(4 * 32, 0.5F);
  ForwardRequest request;
  request.want_final = true;
  for (const char* name : {"hook_embed", "blocks.0.hook_attn_out", "blocks.1.hook_resid_mid"}) {
    request.hooks[HookPoint::parse(name)] = [&](const at::Tensor&) {
      return at::from_blob(borrowed.data(), {4, 32});
    };
  }
  model->forward(batch_of(some_ids(1, 4)), request);
  EXPECT_EQ(borrowed, std::vector<float>(4 * 32, 0.5F));
}

TEST(Forward, HonoursReplacementsOfOutputsAndOfTheFinalNorm) {
  const auto model = load(tiny_llama());
  const TokenBatch batch = batch_of(some_ids(1, 6));
  const at::Tensor none = at::zeros({6, 32});
  const auto seen = record(*model, batch,
                           {{"blocks.0.hook_attn_out", replace_with(none)},
                            {"blocks.0.hook_mlp_out", replace_with(none)}});
  EXPECT_TRUE(at::equal(seen.at("blocks.0.hook_resid_post"), seen.at("hook_embed")));
  ForwardRequest request;
  request.want_final = true;
  request.hooks[HookPoint::parse("ln_final.hook_normalized")] = replace_with(at::ones({6, 32}));
  EXPECT_TRUE(at::equal(model->forward(batch, request), at::ones({6, 32})));
}

TEST(Forward, TreatsAReplacementOfAnotherShapeAsABug) {
  const auto model = load(tiny_llama());
  ForwardRequest request;
  request.hooks[HookPoint::parse("hook_embed")] = replace_with(at::ones({6, 31}));
  EXPECT_THROW(model->forward(batch_of(some_ids(1, 6)), request), InternalError);
}

TEST(Forward, KeepsTheBitsWhateverElseIsHooked) {
  const auto model = load(tiny_llama());
  const TokenBatch batch = batch_of(some_ids(3, 9));
  const auto seen = record(*model, batch);
  EXPECT_TRUE(at::equal(run(*model, batch), seen.at("ln_final.hook_normalized")));
  at::Tensor alone;
  ForwardRequest request;
  request.hooks[HookPoint::parse("blocks.1.hook_resid_mid")] = keep(alone);
  EXPECT_FALSE(model->forward(batch, request).defined());
  EXPECT_TRUE(at::equal(alone, seen.at("blocks.1.hook_resid_mid")));
}

TEST(Forward, NeverWritesIntoAnActivationThatAHookKept) {
  const auto model = load(tiny_llama());
  const TokenBatch batch = batch_of(some_ids(2, 8));
  const auto expected = record(*model, batch);
  std::map<std::string, at::Tensor> kept;
  ForwardRequest request;
  for (const auto& [name, value] : expected)
    request.hooks[HookPoint::parse(name)] = keep(kept[name]);
  model->forward(batch, request);
  // A view counts as kept too.
  at::Tensor view;
  ForwardRequest with_view;
  with_view.hooks[HookPoint::parse("blocks.0.hook_mlp_out")] = [&](const at::Tensor& activation) {
    view = activation.narrow(0, 3, 2);
    return at::Tensor();
  };
  with_view.want_final = true;
  model->forward(batch, with_view);
  run(*model, batch_of(at::zeros({2, 8}, at::kLong)));
  for (const auto& [name, value] : expected) EXPECT_TRUE(at::equal(kept.at(name), value)) << name;
  EXPECT_TRUE(at::equal(view, expected.at("blocks.0.hook_mlp_out").narrow(0, 3, 2)));
}

std::atomic<int> matrix_products = 0;

/// Counts the matrix products of a pass up to one hook point.
int products_up_to(HostModel& model, const std::string& name) {
  const auto handle =
      at::addGlobalCallback(at::RecordFunctionCallback([](const at::RecordFunction& function)
                                                           -> std::unique_ptr<at::ObserverContext> {
                              if (std::string_view(function.name()) == "aten::mm")
                                ++matrix_products;
                              return nullptr;
                            }).scopes({at::RecordScope::FUNCTION}));
  matrix_products = 0;
  ForwardRequest request;
  request.hooks[HookPoint::parse(name)] = [](const at::Tensor&) { return at::Tensor(); };
  model.forward(batch_of(some_ids(1, 4)), request);
  at::removeCallback(handle);
  return matrix_products;
}

TEST(Forward, ComputesNothingPastTheLastHookPoint) {
  const auto model = load(tiny_llama());
  EXPECT_EQ(products_up_to(*model, "hook_embed"), 0);
  EXPECT_EQ(products_up_to(*model, "blocks.0.hook_resid_pre"), 0);
  EXPECT_EQ(products_up_to(*model, "blocks.0.hook_attn_out"), 2);
  EXPECT_EQ(products_up_to(*model, "blocks.0.hook_resid_mid"), 2);
  EXPECT_EQ(products_up_to(*model, "blocks.0.hook_mlp_out"), 4);
  EXPECT_EQ(products_up_to(*model, "blocks.0.hook_resid_post"), 4);
  EXPECT_EQ(products_up_to(*model, "blocks.1.hook_resid_pre"), 4);
  EXPECT_EQ(products_up_to(*model, "blocks.2.hook_attn_out"), 10);
  EXPECT_EQ(products_up_to(*model, "ln_final.hook_normalized"), 12);
}

TEST(Forward, DoesNothingWithoutHooks) {
  const auto model = load(tiny_llama());
  EXPECT_FALSE(model->forward(batch_of(some_ids(1, 4)), {}).defined());
}

TEST(Forward, StartsAgainFromAResidualStreamWithTheSameBits) {
  const auto model = load(tiny_llama());
  const TokenBatch batch = batch_of(some_ids(2, 9));
  const auto seen = record(*model, batch);
  for (std::int64_t block = 0; block <= 3; ++block) {
    ForwardRequest request;
    request.first_block = block;
    request.resid_pre = block < 3 ? seen.at(fmt::format("blocks.{}.hook_resid_pre", block)).clone()
                                  : seen.at("blocks.2.hook_resid_post").clone();
    const at::Tensor before = request.resid_pre.clone();
    request.want_final = true;
    EXPECT_TRUE(at::equal(model->forward(batch, request), seen.at("ln_final.hook_normalized")))
        << block;
    EXPECT_TRUE(at::equal(request.resid_pre, before)) << block;
  }
}

TEST(Forward, RefusesHookPointsThatThePassCannotReach) {
  const auto model = load(tiny_llama());
  const TokenBatch batch = batch_of(some_ids(1, 4));
  const auto first_line_of = [&](const char* name, std::int64_t first_block) {
    ForwardRequest request;
    request.hooks[HookPoint::parse(name)] = [](const at::Tensor&) { return at::Tensor(); };
    request.first_block = first_block;
    if (first_block > 0) request.resid_pre = at::zeros({4, 32});
    try {
      model->forward(batch, request);
    } catch (const ConfigError& error) {
      return error.first_line();
    }
    return std::string("no error");
  };
  EXPECT_EQ(first_line_of("blocks.3.hook_resid_pre", 0),
            "hook point blocks.3.hook_resid_pre: the model has 3 blocks");
  EXPECT_EQ(first_line_of("blocks.0.hook_resid_post", 1),
            "hook point blocks.0.hook_resid_post lies before block 1, where the pass starts");
  EXPECT_EQ(first_line_of("hook_embed", 1),
            "hook point hook_embed lies before block 1, where the pass starts");
  EXPECT_EQ(first_line_of("blocks.1.hook_resid_pre", 1), "no error");
}

TEST(Forward, TreatsBatchesThatTheModelCannotReadAsABug) {
  const auto model = load(tiny_llama());
  EXPECT_THROW(run(*model, batch_of(at::full({1, 4}, 50, at::kLong))), InternalError);
  EXPECT_THROW(run(*model, batch_of(at::full({1, 4}, -1, at::kLong))), InternalError);
  EXPECT_THROW(run(*model, batch_of(some_ids(1, 65))), InternalError);
  TokenBatch uneven = batch_of(some_ids(2, 4));
  uneven.documents = at::zeros({4, 2}, at::kLong);
  EXPECT_THROW(run(*model, uneven), InternalError);
}

TEST(Forward, LetsDocumentsOfAContextSeeNothingOfEachOther) {
  const auto model = load(tiny_llama());
  const at::Tensor ids = some_ids(1, 12);
  TokenBatch together = batch_of(ids);
  together.documents.narrow(1, 5, 7).fill_(1);
  together.positions.narrow(1, 5, 7).sub_(5);
  const at::Tensor joined = run(*model, together);
  const at::Tensor first = run(*model, batch_of(ids.narrow(1, 0, 5).contiguous()));
  const at::Tensor second = run(*model, batch_of(ids.narrow(1, 5, 7).contiguous()));
  EXPECT_TRUE(at::allclose(joined.narrow(0, 0, 5), first, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(joined.narrow(0, 5, 7), second, 1e-5, 1e-6));
  const at::Tensor unmasked = run(*model, batch_of(ids));
  EXPECT_FALSE(at::allclose(unmasked.narrow(0, 5, 7), second, 1e-2, 1e-2));
}

TEST(Forward, SeesNoLaterTokenAndNoOtherContext) {
  const auto model = load(tiny_llama());
  const at::Tensor ids = some_ids(3, 10);
  const at::Tensor before = run(*model, batch_of(ids)).view({3, 10, 32});
  at::Tensor changed = ids.clone();
  changed[1].narrow(0, 6, 4).fill_(0);
  const at::Tensor after = run(*model, batch_of(changed)).view({3, 10, 32});
  EXPECT_TRUE(at::equal(before[0], after[0]));
  EXPECT_TRUE(at::equal(before[2], after[2]));
  EXPECT_TRUE(at::equal(before[1].narrow(0, 0, 6), after[1].narrow(0, 0, 6)));
  EXPECT_FALSE(at::equal(before[1].narrow(0, 6, 4), after[1].narrow(0, 6, 4)));
}

TEST(Forward, UsesPositionsRelativeToEachOther) {
  const auto model = load(tiny_llama());
  TokenBatch batch = batch_of(some_ids(1, 10));
  const at::Tensor plain = run(*model, batch);
  batch.positions = batch.positions + 20;
  EXPECT_TRUE(at::allclose(run(*model, batch), plain, 1e-3, 1e-4))
      << "rotary positions count only as differences";
  batch.positions = batch.positions.flip(1).contiguous();
  EXPECT_FALSE(at::allclose(run(*model, batch), plain, 1e-3, 1e-4));
}

TEST(Forward, GivesTheSameBitsForOneThreadAndTwo) {
  const auto model = load(tiny_llama());
  const TokenBatch batch = batch_of(some_ids(40, 16));
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = run(*model, batch);
  at::set_num_threads(2);
  const at::Tensor two = run(*model, batch);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(one, two));
}

TEST(ForwardInBfloat16, ShowsFloat32ThatBfloat16Holds) {
  const auto model = load(tiny_llama(), "bfloat16");
  const TokenBatch batch = batch_of(some_ids(2, 7));
  const auto seen = record(*model, batch);
  EXPECT_EQ(seen.size(), 17U);
  for (const auto& [name, value] : seen) {
    EXPECT_EQ(value.scalar_type(), at::kFloat) << name;
    EXPECT_TRUE(at::equal(value, value.to(at::kBFloat16).to(at::kFloat))) << name;
  }
  const at::Tensor rows = run(*model, batch);
  EXPECT_TRUE(at::equal(rows, seen.at("ln_final.hook_normalized")));
  EXPECT_EQ(model->unembed(rows).scalar_type(), at::kFloat);
  EXPECT_EQ(model->unembedding().scalar_type(), at::kFloat);
  EXPECT_EQ(model->info().dtype, Dtype::kBfloat16);
  EXPECT_EQ(2 * model->info().parameter_bytes, load(tiny_llama())->info().parameter_bytes);
}

TEST(ForwardInBfloat16, StaysNearFloat32) {
  const TokenBatch batch = batch_of(some_ids(4, 12));
  const at::Tensor exact = run(*load(tiny_llama()), batch);
  const at::Tensor brief = run(*load(tiny_llama(), "bfloat16"), batch);
  const at::Tensor error = (brief - exact).norm(2, 1) / exact.norm(2, 1);
  EXPECT_LT(error.max().item<double>(), 0.05);
  EXPECT_GT(error.max().item<double>(), 1e-4) << "nothing was rounded";
}

TEST(ForwardInBfloat16, HonoursReplacementsAndRestartsWithTheSameBits) {
  const auto model = load(tiny_llama(), "bfloat16");
  const TokenBatch batch = batch_of(some_ids(2, 9));
  const auto seen = record(*model, batch);
  ForwardRequest request;
  request.first_block = 1;
  request.resid_pre = seen.at("blocks.1.hook_resid_pre").clone();
  request.want_final = true;
  EXPECT_TRUE(at::equal(model->forward(batch, request), seen.at("ln_final.hook_normalized")));
  const at::Tensor other = at::linspace(-1, 1, 18 * 32).view({18, 32});
  const auto replaced = record(*model, batch, {{"blocks.1.hook_resid_pre", replace_with(other)}});
  const at::Tensor sum =
      other.to(at::kBFloat16) + replaced.at("blocks.1.hook_attn_out").to(at::kBFloat16);
  EXPECT_TRUE(at::equal(replaced.at("blocks.1.hook_resid_mid"), sum.to(at::kFloat)));
}

TEST(ForwardInBfloat16, GivesTheSameBitsForOneThreadAndTwo) {
  const auto model = load(tiny_llama(), "bfloat16");
  const TokenBatch batch = batch_of(some_ids(40, 16));
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = run(*model, batch);
  at::set_num_threads(2);
  const at::Tensor two = run(*model, batch);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(one, two));
}

TEST(Forward, SeesNothingBeforeTheWindow) {
  GgufBuilder file = tiny_llama({.n_blocks = 1});
  file.uint32("llama.attention.sliding_window", 3);
  const auto model = load(file);
  const at::Tensor ids = some_ids(1, 10);
  at::Tensor changed = ids.clone();
  changed[0][4] = 0;
  const at::Tensor before = run(*model, batch_of(ids));
  const at::Tensor after = run(*model, batch_of(changed));
  for (int token = 0; token < 10; ++token) {
    const bool sees_it = token >= 4 && token <= 6;
    EXPECT_EQ(at::equal(before[token], after[token]), !sees_it) << token;
  }
}

TEST(Unembed, MultipliesWithTheMatrixThatItShows) {
  for (const bool is_tied : {false, true}) {
    const auto model = load(tiny_llama({.is_tied = is_tied}));
    const at::Tensor rows = run(*model, batch_of(some_ids(1, 8)));
    const at::Tensor logits = model->unembed(rows);
    EXPECT_EQ(logits.sizes(), (at::IntArrayRef{8, 50}));
    EXPECT_TRUE(at::allclose(logits, at::mm(rows, model->unembedding().t()), 1e-5, 1e-5));
    const std::int64_t block = 4 * (32 + 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32);
    EXPECT_EQ(model->info().parameter_bytes, 3 * block + 4 * 32 + 4 * 50 * 32 * (is_tied ? 1 : 2));
  }
}

TEST(NextTokenLosses, EqualTheLogSoftmaxInDouble) {
  // A vocabulary so large that the rows need several chunks, the last one not full.
  const std::int64_t n_vocabulary = 262'144;
  const auto model = load(tiny_llama({.n_blocks = 1,
                                      .d_model = 8,
                                      .n_heads = 2,
                                      .n_kv_heads = 1,
                                      .d_mlp = 8,
                                      .n_vocabulary = n_vocabulary,
                                      .is_tied = true}));
  const at::Tensor rows = at::linspace(-3, 3, 70 * 8).view({70, 8}).cos();
  const at::Tensor targets = at::arange(70, at::kLong).mul_(3'741).remainder_(n_vocabulary);
  const at::Tensor losses = next_token_losses(*model, rows, targets);
  EXPECT_EQ(losses.scalar_type(), at::kDouble);
  const at::Tensor logits = model->unembed(rows).to(at::kDouble);
  const at::Tensor expected =
      -at::log_softmax(logits, 1).gather(1, targets.unsqueeze(1)).squeeze(1);
  EXPECT_LT((losses - expected).abs().max().item<double>(), 1e-5);
  EXPECT_EQ(next_token_losses(*model, rows.narrow(0, 0, 0), targets.narrow(0, 0, 0)).numel(), 0);
  EXPECT_THROW(next_token_losses(*model, rows, targets + n_vocabulary), InternalError);
}

}  // namespace
}  // namespace thresher::host_model
