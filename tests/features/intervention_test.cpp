#include "features/intervention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/evaluation/tiny_host.h"
#include "tests/host_model/tiny_llama.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;
using host_model::PassRows;
using testing::PlainTokenizer;
using Kind = Intervention::Kind;

const HookPoint kPoint = HookPoint::parse("blocks.1.hook_resid_post");

host_model::HostModelInfo tiny_info(std::int64_t width) {
  host_model::HostModelInfo info;
  info.n_blocks = 3;
  info.d_model = width;
  return info;
}

/// What an intervention makes of the rows of a first pass over the contexts.
at::Tensor edited(Intervention one, const at::Tensor& activation,
                  const std::vector<std::vector<std::int32_t>>& contexts,
                  const evaluation::EncodingRules& rules = {}) {
  const PlainTokenizer tokenizer({99});
  one.point = kPoint;
  Interventions interventions({std::move(one)}, rules, tokenizer, tiny_info(activation.size(1)));
  const at::Tensor out =
      interventions.hooks().at(kPoint)(activation, host_model::align_contexts(contexts));
  return out.defined() ? out : activation;
}

Intervention along(Kind kind, const at::Tensor& direction, std::vector<double> values,
                   const PositionRange& positions = {}) {
  Intervention one;
  one.kind = kind;
  one.direction = direction;
  one.values = std::move(values);
  one.positions = positions;
  return one;
}

TEST(Interventions, ComputeWhatTheHeaderSays) {
  const at::Tensor x = at::tensor({0.0F, 0.0F, 1.0F, 7.0F, 2.0F, 5.0F}).view({3, 2});
  const at::Tensor d = at::tensor({3.0F, 4.0F});  // unit vector 0.6, 0.8
  const auto rows_of = [&](Kind kind, double value) {
    return edited(along(kind, d, {value}), x, {{1, 2, 3}});
  };
  // Components along d: 6.2 and 5.2. The first position stays.
  EXPECT_TRUE(at::allclose(rows_of(Kind::kAdd, 2),
                           at::tensor({0.F, 0.F, 7.F, 15.F, 8.F, 13.F}).view({3, 2})));
  EXPECT_TRUE(at::allclose(
      rows_of(Kind::kProjectOut, 1),
      at::tensor({0.F, 0.F, 1 - 3.72F, 7 - 4.96F, 2 - 3.12F, 5 - 4.16F}).view({3, 2}), 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(
      rows_of(Kind::kClamp, 1.2),
      at::tensor({0.F, 0.F, 1 - 3.F, 7 - 4.F, 2 - 2.4F, 5 - 3.2F}).view({3, 2}), 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(
      rows_of(Kind::kScale, 3),
      at::tensor({0.F, 0.F, 1 + 7.44F, 7 + 9.92F, 2 + 6.24F, 5 + 8.32F}).view({3, 2}), 1e-5, 1e-5));
  const at::Tensor none = at::zeros({2});
  EXPECT_TRUE(at::equal(edited(along(Kind::kClamp, none, {5}), x, {{1, 2, 3}}), x));
}

TEST(Interventions, EditTheAskedPositionsAlone) {
  // Prompts of three and two tokens, one padding row.
  const at::Tensor x = at::zeros({6, 1});
  const auto rows_of = [&](const char* positions) {
    const at::Tensor out =
        edited(along(Kind::kAdd, at::ones({1}), {1}, PositionRange::parse(positions)), x,
               {{1, 2, 3}, {4, 5}});
    return std::vector<float>(out.const_data_ptr<float>(), out.const_data_ptr<float>() + 6);
  };
  EXPECT_EQ(rows_of("all"), (std::vector<float>{0, 1, 1, 0, 0, 1}));
  EXPECT_EQ(rows_of("last"), (std::vector<float>{0, 0, 1, 0, 0, 1}));
  EXPECT_EQ(rows_of("end"), (std::vector<float>{0, 0, 1, 0, 0, 1}));
  EXPECT_EQ(rows_of("1:2"), (std::vector<float>{0, 1, 0, 0, 0, 1}));
  EXPECT_EQ(rows_of("2:9"), (std::vector<float>{0, 0, 1, 0, 0, 0}));
  EXPECT_EQ(PositionRange::parse("2:9").name(), "2:9");
  EXPECT_THROW(PositionRange::parse("2:2"), UsageError);
  EXPECT_THROW(PositionRange::parse("-1:2"), UsageError);
  EXPECT_THROW(PositionRange::parse("some"), UsageError);
}

TEST(Interventions, LeaveSinksAlone) {
  // First position; special token 99; a norm 10 times the median of the rest and a bit.
  const at::Tensor x = at::tensor({1.F, 1.F, 1.F, 2.F, 3.F, 20.5F, 19.F}).view({7, 1});
  const std::vector<std::vector<std::int32_t>> ids = {{1, 99, 3, 4, 5, 6, 7}};
  const Intervention add = along(Kind::kAdd, at::full({1}, 100.F), {1});
  // Kept by the first two rules: 1, 2, 3, 20.5, 19; the median is 3, the limit 30.
  EXPECT_TRUE(at::equal(edited(add, x, ids),
                        at::tensor({1.F, 1.F, 101.F, 102.F, 103.F, 120.5F, 119.F}).view({7, 1})));
  at::Tensor with_sink = x.clone();
  with_sink[5] = 30.5;
  EXPECT_TRUE(at::equal(edited(add, with_sink, ids),
                        at::tensor({1.F, 1.F, 101.F, 102.F, 103.F, 30.5F, 119.F}).view({7, 1})));
  evaluation::EncodingRules rules;  // the run's own limit at this point
  rules.cache.hook_points = {"blocks.0.hook_resid_post", "blocks.1.hook_resid_post"};
  rules.norm_limits = {1e6, 2.5};
  EXPECT_TRUE(at::equal(edited(add, x, ids, rules),
                        at::tensor({1.F, 1.F, 101.F, 102.F, 3.F, 20.5F, 19.F}).view({7, 1})));
  rules.cache.drop_first_positions = 0;
  rules.cache.drop_special_tokens = false;
  rules.cache.drop_norm_above = 0;
  rules.norm_limits = {};
  // All rows count now: the median is 2, and 20.5 is beyond its tenfold.
  at::Tensor expected = x + 100;
  expected[5] = 20.5;
  EXPECT_TRUE(at::equal(edited(add, x, ids, rules), expected));
}

TEST(Interventions, TakeADirectionAndAValueOfEachPrompt) {
  const at::Tensor x = at::zeros({6, 2});
  const at::Tensor directions = at::tensor({1.F, 0.F, 0.F, 2.F}).view({2, 2});
  const at::Tensor out = edited(along(Kind::kAdd, directions, {3, 5}), x, {{1, 2, 3}, {4, 5, 6}});
  EXPECT_TRUE(at::equal(out, at::tensor({0.F, 0.F, 3.F, 0.F, 3.F, 0.F,  //
                                         0.F, 0.F, 0.F, 10.F, 0.F, 10.F})
                                 .view({6, 2})));
}

sae::InferenceSae small_sae() {
  sae::InferenceSae sae;
  sae.architecture = "standard";
  sae.apply_b_dec_to_input = false;
  sae.W_enc = testing::random_tensor({4, 6}, 1, 1);
  sae.b_enc = testing::random_tensor({6}, 0.1, 2);
  sae.W_dec = testing::random_tensor({6, 4}, 1, 3);
  sae.b_dec = testing::random_tensor({4}, 0.1, 4);
  return sae;
}

TEST(Interventions, ChangeALatentAndKeepWhatTheSaeDoesNotExplain) {
  const sae::InferenceSae sae = small_sae();
  const at::Tensor x = testing::random_tensor({5, 4}, 1, 5);
  const at::Tensor acts = sae.encode_dense(x);
  const at::Tensor error = x - sae.decode_dense(acts);
  for (std::int64_t latent = 0; latent < 6; ++latent) {
    for (const Kind kind : {Kind::kAdd, Kind::kClamp, Kind::kScale, Kind::kProjectOut}) {
      Intervention one;
      one.kind = kind;
      one.values = {2.5};
      one.sae = &sae;
      one.latent = latent;
      at::Tensor changed = acts.clone();
      at::Tensor column = changed.select(1, latent);
      if (kind == Kind::kAdd) column.add_(2.5);
      if (kind == Kind::kClamp) column.fill_(2.5);
      if (kind == Kind::kScale) column.mul_(2.5);
      if (kind == Kind::kProjectOut) column.zero_();
      at::Tensor expected = sae.decode_dense(changed) + error;
      expected[0].copy_(x[0]);
      EXPECT_TRUE(at::allclose(edited(one, x, {{1, 2, 3, 4, 5}}), expected, 1e-5, 1e-5)) << latent;
    }
  }
  Intervention splice;
  splice.kind = Kind::kReconstruct;
  splice.sae = &sae;
  const at::Tensor out = edited(splice, x, {{1, 2, 3, 4, 5}});
  EXPECT_TRUE(at::allclose(out.narrow(0, 1, 4), sae.reconstruct(x).narrow(0, 1, 4)));
  EXPECT_TRUE(at::equal(out[0], x[0]));
}

TEST(Interventions, SteerGenerationAsPassesOverAllTokensDo) {
  const auto model = testing::load(testing::tiny_llama());
  const PlainTokenizer tokenizer({12});
  const std::vector<std::vector<std::int32_t>> prompts = {{1, 2, 3, 4, 12, 6}, {8, 9, 10}};
  for (const char* positions : {"all", "end", "last", "2:8"}) {
    Intervention one =
        along(Kind::kAdd, testing::random_tensor({32}, 1, 9), {4}, PositionRange::parse(positions));
    one.point = kPoint;
    Interventions interventions({one}, {}, tokenizer, model->info());
    host_model::GenerationRequest request;
    for (const auto& ids : prompts) request.prompts.push_back({ids, 0});
    request.max_new_tokens = 8;
    request.hooks = interventions.hooks();
    const auto generated = host_model::generate(*model, request);
    EXPECT_GT(interventions.n_edited(), 0);
    // Without a cache: every new token is the most probable one of a whole pass.
    for (std::size_t p = 0; p < prompts.size(); ++p) {
      std::vector<std::int32_t> ids = prompts[p];
      ids.insert(ids.end(), generated[p].token_ids.begin(), generated[p].token_ids.end());
      PassRows rows = host_model::align_contexts({ids});
      rows.prompt_tokens = at::tensor({static_cast<std::int64_t>(prompts[p].size())}, at::kLong);
      Interventions again({one}, {}, tokenizer, model->info());
      const auto hooks = again.hooks();
      host_model::ForwardRequest pass;
      pass.hooks = host_model::bind_hooks(hooks, rows);
      pass.want_final = true;
      const at::Tensor best = model->unembed(model->forward(rows.batch, pass)).argmax(1);
      for (std::size_t t = prompts[p].size(); t < ids.size(); ++t) {
        EXPECT_EQ(best[static_cast<std::int64_t>(t) - 1].item<std::int64_t>(), ids[t])
            << positions << " " << p << " " << t;
      }
    }
  }
}

TEST(Interventions, SayWhatDoesNotFitTheModel) {
  const PlainTokenizer tokenizer;
  const auto first_line_of = [&](Intervention one, const char* point) {
    one.point = HookPoint::parse(point);
    try {
      Interventions({std::move(one)}, {}, tokenizer, tiny_info(4));
    } catch (const ConfigError& error) {
      return error.first_line();
    }
    return std::string("no error");
  };
  EXPECT_EQ(first_line_of(along(Kind::kAdd, at::ones({4}), {1}), "blocks.3.hook_resid_pre"),
            "an intervention at blocks.3.hook_resid_pre: the model has 3 blocks");
  EXPECT_EQ(first_line_of(along(Kind::kAdd, at::ones({5}), {1}), "blocks.2.hook_mlp_out"),
            "a direction of 5 values at blocks.2.hook_mlp_out");
  const sae::InferenceSae sae = small_sae();
  Intervention one;
  one.sae = &sae;
  one.latent = 6;
  EXPECT_EQ(first_line_of(one, "blocks.2.hook_mlp_out"), "there is no latent 6");
  EXPECT_THROW(parse_intervention_kind("ad"), UsageError);
}

}  // namespace
}  // namespace thresher::features
