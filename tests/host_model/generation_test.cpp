#include "host_model/generation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/host_model/tiny_llama.h"

namespace thresher::host_model {
namespace {

using testing::batch_of;
using testing::load;
using testing::tiny_llama;

const std::vector<std::vector<std::int32_t>> kPrompts = {
    {1, 2, 3, 4, 5, 6, 7}, {8, 9, 10}, {11}, {11, 12, 13, 14, 15}, {30, 31}};

GenerationRequest request_of(const std::vector<std::vector<std::int32_t>>& prompts,
                             std::int64_t tokens) {
  GenerationRequest request;
  for (const auto& ids : prompts) request.prompts.push_back({ids, 0});
  request.max_new_tokens = tokens;
  return request;
}

/// The most probable continuation by whole passes, without a cache.
std::vector<std::int32_t> greedy_by_hand(HostModel& model, std::vector<std::int32_t> ids,
                                         std::int64_t tokens) {
  std::vector<std::int32_t> made;
  for (std::int64_t i = 0; i < tokens; ++i) {
    const std::vector<std::int64_t> wide(ids.begin(), ids.end());
    const auto length = static_cast<std::int64_t>(wide.size());
    ForwardRequest request;
    request.want_final = true;
    const at::Tensor rows =
        model.forward(batch_of(at::tensor(wide, at::kLong).view({1, length})), request);
    const at::Tensor logits = model.unembed(rows.narrow(0, length - 1, 1));
    made.push_back(static_cast<std::int32_t>(logits.argmax().item<std::int64_t>()));
    ids.push_back(made.back());
  }
  return made;
}

TEST(Generate, GivesTheMostProbableTokensOfEveryPromptOfABatch) {
  const auto model = load(tiny_llama());
  for (const std::int64_t batch_contexts : {1, 2, 32}) {
    GenerationRequest request = request_of(kPrompts, 12);
    request.batch_contexts = batch_contexts;
    const std::vector<Generated> results = generate(*model, request);
    for (std::size_t i = 0; i < kPrompts.size(); ++i) {
      EXPECT_EQ(results[i].token_ids, greedy_by_hand(*model, kPrompts[i], 12)) << i;
      EXPECT_EQ(results[i].end, Generated::End::kLength);
    }
  }
}

TEST(Generate, EndsBeforeAStopTokenWhileOthersGoOn) {
  const auto model = load(tiny_llama());
  const std::vector<Generated> free = generate(*model, request_of(kPrompts, 12));
  GenerationRequest request = request_of(kPrompts, 12);
  request.stop_ids = {free[0].token_ids[2], free[3].token_ids[0]};
  std::vector<std::vector<std::int32_t>> told(kPrompts.size());
  request.on_token = [&](std::size_t prompt, std::int32_t id) { told[prompt].push_back(id); };
  const std::vector<Generated> results = generate(*model, request);
  EXPECT_EQ(results[3].token_ids, std::vector<std::int32_t>{});
  EXPECT_EQ(results[3].end, Generated::End::kStopToken);
  int n_stopped = 0;
  for (std::size_t i = 0; i < kPrompts.size(); ++i) {
    EXPECT_EQ(told[i], results[i].token_ids);
    std::vector<std::int32_t> expected;
    for (const std::int32_t id : free[i].token_ids) {
      if (id == request.stop_ids[0] || id == request.stop_ids[1]) break;
      expected.push_back(id);
    }
    EXPECT_EQ(results[i].token_ids, expected) << i;
    n_stopped += results[i].end == Generated::End::kStopToken ? 1 : 0;
  }
  EXPECT_GE(n_stopped, 2);
}

TEST(Generate, EndsWhereTheModelsContextIsFull) {
  const auto model = load(tiny_llama({.max_context_tokens = 9}));
  const std::vector<Generated> results = generate(*model, request_of(kPrompts, 12));
  for (std::size_t i = 0; i < kPrompts.size(); ++i) {
    EXPECT_EQ(results[i].token_ids.size() + kPrompts[i].size(), 9U) << i;
    EXPECT_EQ(results[i].end, Generated::End::kContextFull);
  }
}

TEST(Generate, DrawsTheSameWhateverElseIsInTheBatch) {
  const auto model = load(tiny_llama());
  GenerationRequest request = request_of(kPrompts, 20);
  request.temperature = 1.5;
  request.seed = 7;
  const std::vector<Generated> together = generate(*model, request);
  for (std::size_t i = 0; i < kPrompts.size(); ++i) {
    GenerationRequest alone = request_of({kPrompts[i]}, 20);
    alone.temperature = 1.5;
    alone.seed = 7;
    EXPECT_EQ(generate(*model, alone)[0].token_ids, together[i].token_ids) << i;
    alone.prompts[0].sample = 1;
    EXPECT_NE(generate(*model, alone)[0].token_ids, together[i].token_ids) << i;
    alone.prompts[0].sample = 0;
    alone.seed = 8;
    EXPECT_NE(generate(*model, alone)[0].token_ids, together[i].token_ids) << i;
  }
}

TEST(Generate, TellsHooksWhichRowsTheySee) {
  const auto model = load(tiny_llama());
  GenerationRequest request = request_of({{1, 2, 3}, {4}}, 3);
  std::vector<std::string> seen;
  request.hooks[HookPoint::parse("blocks.1.hook_resid_post")] = [&](const at::Tensor& activation,
                                                                    const PassRows& rows) {
    const at::Tensor& ids = rows.batch.token_ids;
    EXPECT_EQ(activation.size(0), ids.numel());
    std::string line = rows.is_first ? "first" : "next";
    for (std::int64_t c = 0; c < ids.size(0); ++c) {
      for (std::int64_t t = 0; t < ids.size(1); ++t) {
        if (rows.batch.documents[c][t].item<std::int64_t>() < 0) continue;
        line += fmt::format(" {}@{}/{}", rows.prompts[c].item<std::int64_t>(),
                            rows.batch.positions[c][t].item<std::int64_t>(),
                            rows.prompt_tokens[c].item<std::int64_t>());
      }
    }
    seen.push_back(line);
    return at::Tensor();
  };
  generate(*model, request);
  // Shorter prompts come first in a batch.
  EXPECT_EQ(seen, (std::vector<std::string>{"first 1@0/1 0@0/3 0@1/3 0@2/3", "next 1@1/1 0@3/3",
                                            "next 1@2/1 0@4/3"}));
}

TEST(Generate, HonoursReplacementsInEveryPass) {
  const auto model = load(tiny_llama());
  GenerationRequest request = request_of({{1, 2, 3}}, 5);
  request.hooks[HookPoint::parse("ln_final.hook_normalized")] = [&](const at::Tensor& activation,
                                                                    const PassRows& rows) {
    // The row of the unembedding that token 5 + position has: it becomes the most probable.
    at::Tensor out = activation.clone();
    const std::int64_t last = rows.batch.positions.numel() - 1;
    const std::int64_t position = rows.batch.positions.view({-1})[last].item<std::int64_t>();
    out[last] = model->unembedding()[5 + position] * 100;
    return out;
  };
  const std::vector<std::int32_t> ids = generate(*model, request)[0].token_ids;
  EXPECT_EQ(ids, (std::vector<std::int32_t>{7, 8, 9, 10, 11}));
}

TEST(Generate, RefusesPromptsAndLogitsThatItCannotContinue) {
  const auto model = load(tiny_llama({.max_context_tokens = 5}));
  const auto first_line_of = [&](const GenerationRequest& request) {
    try {
      generate(*model, request);
    } catch (const ConfigError& error) {
      return error.first_line();
    }
    return std::string("no error");
  };
  EXPECT_EQ(first_line_of(request_of({{1}, {}}, 2)), "prompt 1 has no tokens");
  EXPECT_EQ(first_line_of(request_of({{1, 2, 3, 4, 5}}, 2)),
            "prompt 0 has 5 tokens, the model's context 5");
  GenerationRequest request = request_of({{1, 2}}, 2);
  request.hooks[HookPoint::parse("blocks.0.hook_resid_pre")] =
      [](const at::Tensor& activation, const PassRows&) { return activation / 0; };
  EXPECT_EQ(first_line_of(request),
            "prompt 0: the logits of the token after position 1 are not finite");
}

TEST(PickToken, FollowsTheProbabilitiesAndKeepsTheFewestThatReachTopP) {
  // Probabilities 0.1, 0.6, 0.3 at temperature 1.
  const at::Tensor logits =
      at::tensor({std::log(0.1F), std::log(0.6F), std::log(0.3F)}).to(at::kFloat);
  EXPECT_EQ(pick_token(logits, 1, 1, 0.05), 0);
  EXPECT_EQ(pick_token(logits, 1, 1, 0.15), 1);
  EXPECT_EQ(pick_token(logits, 1, 1, 0.69), 1);
  EXPECT_EQ(pick_token(logits, 1, 1, 0.71), 2);
  EXPECT_EQ(pick_token(logits, 1, 1, 0.999999), 2);
  // Only 1 and 2 are left, as 2/3 and 1/3.
  EXPECT_EQ(pick_token(logits, 1, 0.8, 0.0), 1);
  EXPECT_EQ(pick_token(logits, 1, 0.8, 0.66), 1);
  EXPECT_EQ(pick_token(logits, 1, 0.8, 0.67), 2);
  EXPECT_EQ(pick_token(logits, 1, 0.8, 0.999999), 2);
  EXPECT_EQ(pick_token(logits, 1, 0.5, 0.999999), 1);
  // At temperature 1/2 they are 0.01, 0.36 and 0.09 over 0.46.
  EXPECT_EQ(pick_token(logits, 0.5, 1, 0.021), 0);
  EXPECT_EQ(pick_token(logits, 0.5, 1, 0.023), 1);
  EXPECT_EQ(pick_token(logits, 0.5, 1, 0.80), 1);
  EXPECT_EQ(pick_token(logits, 0.5, 1, 0.81), 2);
}

}  // namespace
}  // namespace thresher::host_model
