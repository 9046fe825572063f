#include "features/ablation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <tuple>

#include "core/error.h"
#include "features/latent_paths.h"
#include "features/path_patching.h"
#include "features/text_list.h"
#include "tests/evaluation/tiny_host.h"
#include "tests/host_model/tiny_llama.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;
using testing::PlainTokenizer;
using testing::random_tensor;

constexpr std::int64_t kWidth = 32, kLatents = 40, kBlocks = 3, kVocabulary = 128;
constexpr const char* kText = "the old sailor";

sae::InferenceSae random_sae() {
  sae::InferenceSae sae;
  sae.architecture = "topk";
  sae.k = 4;
  sae.W_enc = random_tensor({kWidth, kLatents}, 0.5, 1);
  sae.b_enc = random_tensor({kLatents}, 0.1, 2);
  sae.W_dec = random_tensor({kLatents, kWidth}, 1, 3);
  sae.W_dec = sae.W_dec / sae.W_dec.norm(2, {1}, true);
  sae.b_dec = random_tensor({kWidth}, 0.2, 4);
  return sae;
}

/// A random Llama whose tokens are bytes ('#' is special), and an SAE after its second block.
Subject make_subject() {
  Subject subject;
  subject.tokenizer = std::make_unique<PlainTokenizer>(std::vector<std::int32_t>{'#'});
  subject.model =
      testing::load(testing::tiny_llama({.n_blocks = kBlocks, .n_vocabulary = kVocabulary}));
  subject.saes.push_back({"topk", "blocks.1.hook_resid_post", random_sae()});
  subject.rules.corpus.context_tokens = 32;
  subject.rules.cache.hook_points = {"blocks.1.hook_resid_post"};
  subject.rules.cache.drop_norm_above = 0;
  return subject;
}

ContextRun run_text(const std::string& text, Subject& subject) {
  return run_context(context_ids(text, "--text", subject), subject);
}

/// Log-probabilities [tokens, n_vocabulary] of a whole run in which `edit` is put at `point`.
at::Tensor edited_run(const ContextRun& run, const std::string& point,
                      const host_model::HookFunction& edit, Subject& subject) {
  host_model::ForwardRequest request;
  request.want_final = true;
  request.hooks[HookPoint::parse(point)] = edit;
  return at::log_softmax(subject.model->unembed(subject.model->forward(run.batch, request)), 1);
}

at::Tensor plain_run(const ContextRun& run, Subject& subject) {
  return at::log_softmax(subject.model->unembed(run.final_normalized), 1);
}

/// The figures of a run written out from its log-probabilities, for texts whose first token alone
/// is left out.
Outputs outputs_of(const at::Tensor& log_p, const at::Tensor& reference, const ContextRun& run) {
  const std::int64_t n = run.n_tokens();
  Outputs out;
  const at::Tensor kl = (reference.exp() * (reference - log_p)).sum(1);
  for (std::int64_t row = 1; row < n; ++row) {
    out.kl += kl[row].item<double>() / static_cast<double>(n - 1);
    if (row + 1 == n) continue;
    const std::int64_t next = run.ids[static_cast<std::size_t>(row + 1)];
    out.loss -= log_p[row][next].item<double>() / static_cast<double>(n - 2);
  }
  out.kl_last = kl[n - 1].item<double>();
  out.probability = std::exp(log_p[n - 1]['x'].item<double>());
  out.logit_difference = log_p[n - 1]['x'].item<double>() - log_p[n - 1]['y'].item<double>();
  return out;
}

void expect_close(const Outputs& a, const Outputs& b, double tolerance = 2e-5) {
  for (const OutputFigure& figure : output_figures()) {
    EXPECT_NEAR(a.*figure.value, b.*figure.value, tolerance) << figure.name;
  }
}

AblationRequest request_for(const std::vector<std::string>& names, const Subject& subject,
                            const ContextRun& run, Method method = Method::kZero) {
  AblationRequest request;
  request.components = parse_components(names, "", subject, run);
  request.change.method = method;
  request.tokens = {'x', 'y'};
  return request;
}

TEST(AblationTest, EqualsTheSameEditInAWholeRun) {
  Subject subject = make_subject();
  const ContextRun run = run_text(kText, subject);
  for (const char* point :
       {"hook_embed", "blocks.0.hook_resid_pre", "blocks.1.hook_attn_out",
        "blocks.1.hook_resid_mid", "blocks.2.hook_mlp_out", "blocks.0.hook_resid_post",
        "blocks.2.hook_resid_post", "ln_final.hook_normalized"}) {
    const AblationRequest request = request_for({point}, subject, run);
    const AblationMap map = ablate(request, run, run, *subject.model, {});
    ASSERT_EQ(map.positions.size(), static_cast<std::size_t>(run.n_tokens()));
    const Outputs plain = outputs_of(plain_run(run, subject), plain_run(run, subject), run);
    expect_close(map.unchanged, plain);
    for (std::size_t p = 0; p < map.positions.size(); ++p) {
      const auto zero = [&](const at::Tensor& x) {
        at::Tensor out = x.clone();
        if (map.positions[p] == kAllPositions) {
          out.narrow(0, 1, x.size(0) - 1).zero_();
        } else {
          out[map.positions[p]].zero_();
        }
        return out;
      };
      const Outputs edited =
          outputs_of(edited_run(run, point, zero, subject), plain_run(run, subject), run);
      SCOPED_TRACE(std::string(point) + " " + std::to_string(map.positions[p]));
      expect_close(map.at(0, p).mean, difference(edited, plain));
    }
  }
}

TEST(AblationTest, SplicesTheSaeAndTakesLatentsAwayAsByHand) {
  Subject subject = make_subject();
  const ContextRun run = run_text(kText, subject);
  const sae::InferenceSae& sae = subject.saes[0].sae;
  const at::Tensor acts = sae.encode_dense(run.at(HookPoint::parse("blocks.1.hook_resid_post")));
  const std::int64_t latent = acts[5].argmax().item<std::int64_t>();
  const AblationMap map =
      ablate(request_for({"sae_error", "latent:" + std::to_string(latent)}, subject, run), run, run,
             *subject.model, {});
  EXPECT_EQ(map.components,
            (std::vector<std::string>{"topk error", "topk latent " + std::to_string(latent)}));
  const std::int64_t n = run.n_tokens();
  const auto splice = [&](const at::Tensor& x) {
    at::Tensor out = x.clone();
    out.narrow(0, 1, n - 1).copy_(sae.reconstruct(x).narrow(0, 1, n - 1));
    return out;
  };
  const auto without = [&](const at::Tensor& x) {
    at::Tensor out = x.clone();
    for (std::int64_t row = 1; row < n; ++row) out[row] -= acts[row][latent] * sae.W_dec[latent];
    return out;
  };
  const at::Tensor reference = plain_run(run, subject);
  const Outputs plain = outputs_of(reference, reference, run);
  const std::size_t all = map.positions.size() - 1;
  const char* point = "blocks.1.hook_resid_post";
  expect_close(
      map.at(0, all).mean,
      difference(outputs_of(edited_run(run, point, splice, subject), reference, run), plain));
  expect_close(
      map.at(1, all).mean,
      difference(outputs_of(edited_run(run, point, without, subject), reference, run), plain));
  EXPECT_GT(map.at(1, all).mean.kl, 1e-4);
}

TEST(AblationTest, ChangingNothingChangesNothing) {
  Subject subject = make_subject();
  const ContextRun run = run_text(kText, subject);
  const sae::InferenceSae& sae = subject.saes[0].sae;
  const at::Tensor fires =
      sae.encode_dense(run.at(HookPoint::parse("blocks.1.hook_resid_post"))).gt(0).any(0);
  const std::int64_t silent = fires.logical_not().nonzero()[0].item<std::int64_t>();
  const AblationMap map = ablate(request_for({"latent:" + std::to_string(silent)}, subject, run),
                                 run, run, *subject.model, {});
  for (const Effect& effect : map.effects) {
    for (const OutputFigure& figure : output_figures()) EXPECT_EQ(effect.mean.*figure.value, 0);
  }
  // Patched with itself, and noise of no size: run all the same, and nothing changes.
  const Component attn = Component::hook_point(HookPoint::parse("blocks.1.hook_attn_out"));
  const Exchange own = exchange(attn, {.method = Method::kPatch}, run, run, 0);
  EXPECT_TRUE(at::equal(own.values, own.changed));
  const at::Tensor& x = run.at(attn.point());
  EXPECT_TRUE(
      at::equal(run_replaced(run, {{attn.point(), x}}, *subject.model), run.final_normalized));
}

TEST(AblationTest, PatchingTheWholeStreamRestoresTheCleanRun) {
  Subject subject = make_subject();
  const ContextRun clean = run_text("the cat sat on", subject);
  const ContextRun corrupted = run_text("the dog sat on", subject);
  AblationRequest request = request_for({"resid_post"}, subject, corrupted, Method::kPatch);
  request.with_sinks = true;
  const AblationMap map = ablate(request, corrupted, clean, *subject.model, {});
  const std::size_t all = map.positions.size() - 1;
  for (std::size_t block = 0; block < 3; ++block) {
    const Effect& effect = map.at(block, all);
    EXPECT_NEAR(map.unchanged.kl + effect.mean.kl, 0, 1e-6);
    EXPECT_NEAR(map.unchanged.logit_difference + effect.mean.logit_difference,
                map.source->logit_difference, 1e-5);
    EXPECT_NEAR(map.unchanged.probability + effect.mean.probability, map.source->probability, 1e-6);
    // Tokens before the first difference are the same in both prompts.
    EXPECT_EQ(map.at(block, 2).mean.kl, 0);
  }
  EXPECT_GT(map.unchanged.kl, 1e-2);
}

TEST(AblationTest, LeavesSinksAloneUnlessAsked) {
  Subject subject = make_subject();
  const ContextRun run = run_text("ab#cd", subject);
  AblationRequest request = request_for({"blocks.0.hook_mlp_out"}, subject, run);
  EXPECT_EQ(changed_positions(request, run, run), (std::vector<std::int64_t>{1, 3, 4}));
  request.with_sinks = true;
  EXPECT_EQ(changed_positions(request, run, run), (std::vector<std::int64_t>{0, 1, 2, 3, 4}));
  const ContextRun other = run_text("a#bcd", subject);
  request.with_sinks = false;
  request.change.method = Method::kPatch;
  EXPECT_EQ(changed_positions(request, run, other), (std::vector<std::int64_t>{3, 4}));
}

TEST(AblationTest, MeansAndDrawsComeFromKeptPositions) {
  Subject subject = make_subject();
  const ContextRun run = run_text(kText, subject);
  const ContextRun other = run_text("a#zebra", subject);
  const Component mlp = Component::hook_point(HookPoint::parse("blocks.1.hook_mlp_out"));
  const at::Tensor& table = other.at(mlp.point());
  const Exchange mean = exchange(mlp, {.method = Method::kMean}, run, other, 0);
  const at::Tensor expected = (table.narrow(0, 2, 5).sum(0) / 5).expand_as(mean.changed);
  EXPECT_TRUE(at::allclose(mean.changed, expected, 1e-5, 1e-6));
  std::set<std::int64_t> seen;
  for (std::int64_t draw = 0; draw < 8; ++draw) {
    const Exchange drawn = exchange(mlp, {.method = Method::kResample}, run, other, draw);
    for (std::int64_t row = 0; row < run.n_tokens(); ++row) {
      const at::Tensor found = table.eq(drawn.changed[row]).all(1).nonzero();
      ASSERT_EQ(found.numel(), 1);
      seen.insert(found.item<std::int64_t>());
    }
    // From the text itself another position than one's own.
    const Exchange own = exchange(mlp, {.method = Method::kResample}, run, run, draw);
    EXPECT_TRUE(own.changed.ne(own.values).any(1).all().item<bool>());
  }
  EXPECT_EQ(seen, (std::set<std::int64_t>{2, 3, 4, 5, 6}));
}

TEST(AblationTest, NoiseHasTheNormThatWasAskedForAndDiffersByDraw) {
  Subject subject = make_subject();
  const ContextRun run = run_text(kText, subject);
  const Component attn = Component::hook_point(HookPoint::parse("blocks.0.hook_attn_out"));
  const auto noise = [&](const Change& change, std::int64_t draw) {
    const Exchange drawn = exchange(attn, change, run, run, draw);
    return at::Tensor(drawn.changed - drawn.values);
  };
  const Change fixed = {.method = Method::kJitter, .norm = 2.5};
  EXPECT_TRUE(at::allclose(noise(fixed, 0).norm(2, {1}), at::full({run.n_tokens()}, 2.5), 1e-4));
  EXPECT_TRUE(at::equal(noise(fixed, 1), noise(fixed, 1)));
  EXPECT_FALSE(at::equal(noise(fixed, 0), noise(fixed, 1)));
  const Change part = {.method = Method::kJitter, .fraction = 0.5};
  EXPECT_TRUE(
      at::allclose(noise(part, 0).norm(2, {1}), run.at(attn.point()).norm(2, {1}) * 0.5, 1e-4));
  AblationRequest request = request_for({"blocks.0.hook_attn_out"}, subject, run, Method::kJitter);
  request.change.draws = 3;
  const AblationMap map = ablate(request, run, run, *subject.model, {});
  EXPECT_GT(map.effects[0].spread.kl, 0);
  EXPECT_GT(map.effects[0].mean.kl, 0);
}

TEST(PathPatchingTest, TheOnlyPathIsTheWholeEffect) {
  Subject subject = make_subject();
  const ContextRun run = run_text(kText, subject);
  AblationRequest request = request_for({"embed", "attn_out", "mlp_out"}, subject, run);
  const auto edges =
      patch_paths(request, all_receivers(kBlocks), &Outputs::kl, run, run, *subject.model, {});
  // embed reads nothing; attn_out i is read by mlp i and all later; mlp_out i by later blocks.
  EXPECT_EQ(edges.size(), 7U + (6 + 4 + 2) + (5 + 3 + 1));
  const AblationMap map = ablate(request, run, run, *subject.model, {});
  const std::size_t all = map.positions.size() - 1;
  const auto edge = [&](const std::string& sender, const std::string& receiver) {
    for (const Edge& one : edges) {
      if (one.sender == sender && one.receiver == receiver) return one.effect;
    }
    ADD_FAILURE() << sender << " " << receiver;
    return Outputs();
  };
  ASSERT_EQ(map.components.back(), "blocks.2.hook_mlp_out");
  expect_close(edge("blocks.2.hook_mlp_out", "final"), map.at(6, all).mean);
  for (std::size_t i = 1; i < edges.size(); ++i) {
    EXPECT_GE(std::abs(edges[i - 1].effect.kl), std::abs(edges[i].effect.kl));
  }
}

TEST(PathPatchingTest, FreezesEverythingBetween) {
  Subject subject = make_subject();
  const ContextRun run = run_text(kText, subject);
  const AblationRequest request = request_for({"blocks.0.hook_attn_out"}, subject, run);
  const auto edges =
      patch_paths(request, {{Receiver::Kind::kMlp, 1}, {Receiver::Kind::kAttention, 2}},
                  &Outputs::kl, run, run, *subject.model, {});
  ASSERT_EQ(edges.size(), 2U);
  const at::Tensor reference = plain_run(run, subject);
  const Outputs plain = outputs_of(reference, reference, run);
  at::Tensor removed = run.at(HookPoint::parse("blocks.0.hook_attn_out")).clone();
  removed[0].zero_();
  for (const auto& [input, output, name] :
       {std::tuple{"blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out", "blocks.1.mlp"},
        std::tuple{"blocks.2.hook_resid_pre", "blocks.2.hook_attn_out", "blocks.2.attn"}}) {
    // By hand: what the receiver puts out when it alone reads the stream without the sender ...
    at::Tensor put_out;
    host_model::ForwardRequest receive;
    receive.hooks[HookPoint::parse(input)] = [&](const at::Tensor& x) {
      return at::Tensor(x - removed);
    };
    receive.hooks[HookPoint::parse(output)] = [&](const at::Tensor& x) {
      put_out = x.clone();
      return at::Tensor();
    };
    subject.model->forward(run.batch, receive);
    // ... in the place of its output in an otherwise untouched run.
    const Outputs expected =
        difference(outputs_of(edited_run(
                                  run, output, [&](const at::Tensor&) { return put_out; }, subject),
                              reference, run),
                   plain);
    const Edge& edge = edges[edges[0].receiver == name ? 0 : 1];
    EXPECT_EQ(edge.receiver, name);
    expect_close(edge.effect, expected);
  }
}

TEST(LatentPathsTest, ContributionsSumToThePreActivation) {
  Subject subject = make_subject();
  const ContextRun run = run_text(kText, subject);
  for (const bool centres : {true, false}) {
    for (const char* point : {"blocks.1.hook_resid_post", "blocks.1.hook_resid_mid",
                              "blocks.2.hook_attn_out", "blocks.0.hook_resid_pre"}) {
      NamedSae one{"topk", point, random_sae()};
      one.sae.apply_b_dec_to_input = centres;
      const LatentPaths paths = latent_paths(run, one, 7);
      const at::Tensor sums = paths.contributions.sum(0) + paths.bias;
      for (std::int64_t token = 0; token < run.n_tokens(); ++token) {
        EXPECT_NEAR(sums[token].item<double>(),
                    paths.pre_activations[static_cast<std::size_t>(token)], 1e-4)
            << point;
      }
    }
  }
  EXPECT_EQ(
      latent_paths(run, subject.saes[0], 7).components,
      (std::vector<std::string>{"hook_embed", "blocks.0.hook_attn_out", "blocks.0.hook_mlp_out",
                                "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"}));
}

TEST(LatentPathsTest, ComponentsSumToTheFinalStream) {
  Subject subject = make_subject();
  const ContextRun run = run_text(kText, subject);
  at::Tensor sum = run.at(HookPoint::parse("hook_embed")).to(at::kDouble);
  for (std::int64_t block = 0; block < kBlocks; ++block) {
    sum = sum + run.at({HookPoint::Site::kAttnOut, block}) +
          run.at({HookPoint::Site::kMlpOut, block});
  }
  EXPECT_TRUE(at::allclose(
      sum, run.at(HookPoint::parse("blocks.2.hook_resid_post")).to(at::kDouble), 1e-5, 1e-5));
}

TEST(LatentPathsTest, LogitEffectsAreRankedAboutTheirMean) {
  const at::Tensor unembedding = at::tensor({1.F, 2.F, 6.F, 3.F}).unsqueeze(1);
  const LogitEffect effect = logit_effect(at::tensor({2.F}), unembedding, 2);
  EXPECT_EQ(effect.promoted, (std::vector<std::pair<std::int32_t, double>>{{2, 6.0}}));
  EXPECT_EQ(effect.suppressed,
            (std::vector<std::pair<std::int32_t, double>>{{0, -4.0}, {1, -2.0}}));
}

TEST(ComponentTest, NamesWhatIsWrong) {
  Subject subject = make_subject();
  const ContextRun run = run_text(kText, subject);
  const auto message = [&](const std::vector<std::string>& names) {
    try {
      parse_components(names, "", subject, run);
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(message({"mlp"}).find("there is no component mlp"), std::string::npos);
  EXPECT_NE(message({"latent:40"}).find("latent:40: the SAE topk has 40 latents"),
            std::string::npos);
  EXPECT_NE(message({"latent:x"}).find("there is no component latent:x"), std::string::npos);
  EXPECT_NE(message({"blocks.3.hook_mlp_out"}).find("the model has 3 blocks"), std::string::npos);
  EXPECT_NE(message({"mlp_out", "blocks.0.hook_mlp_out"}).find("was named twice"),
            std::string::npos);
  EXPECT_THROW(patch_paths(request_for({"resid_mid"}, subject, run), all_receivers(3), &Outputs::kl,
                           run, run, *subject.model, {}),
               ConfigError);
  EXPECT_THROW(parse_method("zeros"), ConfigError);
  EXPECT_THROW(single_token("xy", "--answer", *subject.tokenizer), ConfigError);
  EXPECT_THROW(context_ids(std::string(33, 'a'), "--text", subject), ConfigError);
  EXPECT_THROW(context_ids("", "--text", subject), ConfigError);
}

}  // namespace
}  // namespace thresher::features
