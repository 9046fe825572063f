#include "evaluation/evaluation.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/stop_signal.h"
#include "evaluation/clean_pass.h"
#include "evaluation/output_losses.h"
#include "tests/evaluation/tiny_host.h"

namespace thresher::evaluation {
namespace {

using host_model::HookPoint;
using testing::PlainTokenizer;
using testing::random_contexts;
using testing::random_tensor;
using testing::TinyHost;

constexpr std::int64_t kVocabulary = 50, kWidth = 8, kContext = 16, kSink = 7;
constexpr const char* kHook = "blocks.1.hook_resid_post";

EvaluationContext make_context(std::vector<std::string> hook_points = {kHook}) {
  EvaluationContext context;
  context.cache.hook_points = std::move(hook_points);
  for (std::size_t i = 0; i < context.cache.hook_points.size(); ++i) {
    context.norm_limits.push_back(100);
    context.training_means.emplace_back(kWidth, 0.25);
  }
  return context;
}

Candidate candidate(const std::string& name,
                    const std::function<at::Tensor(const at::Tensor&)>& recon) {
  Candidate out;
  out.name = name;
  out.hook_point = kHook;
  out.d_in = kWidth;
  out.apply = [recon](const at::Tensor& x) { return Reconstruction{recon(x), {}}; };
  return out;
}

sae::InferenceSae random_sae(const std::string& architecture, std::int64_t n_latents,
                             std::uint64_t seed) {
  sae::InferenceSae sae;
  sae.architecture = architecture;
  sae.apply_b_dec_to_input = architecture == "topk";
  sae.k = architecture == "topk" ? 3 : 0;
  sae.W_enc = random_tensor({kWidth, n_latents}, 0.5, seed);
  sae.b_enc = random_tensor({n_latents}, 0.1, seed + 1);
  sae.W_dec = random_tensor({n_latents, kWidth}, 0.35, seed + 2);
  sae.b_dec = random_tensor({kWidth}, 0.1, seed + 3);
  return sae;
}

std::vector<Candidate> several_candidates() {
  return {sae_candidate("topk", kHook, random_sae("topk", 24, 100)),
          sae_candidate("relu", kHook, random_sae("standard", 24, 200)),
          candidate("mean", [](const at::Tensor& x) { return at::full_like(x, 0.25); })};
}

class EvaluationTest : public ::testing::Test {
 protected:
  // Rows this small are slower on many threads.
  EvaluationTest() { at::set_num_threads(1); }
  Json evaluate_on(comm::Communicator& comm, const std::vector<Candidate>& candidates,
                   const EvaluationContext& context, std::int64_t tokens) {
    TinyHost host = TinyHost::random(kVocabulary, kWidth, 3, kSink, 1);
    EvaluationConfig config;
    config.tokens = tokens;
    return evaluate(config, candidates, context, contexts_, tokenizer_, host, comm);
  }
  Json evaluate_alone(const std::vector<Candidate>& candidates,
                      std::int64_t tokens = 200 * kContext) {
    const auto comm = comm::make_self_communicator();
    return evaluate_on(*comm, candidates, make_context(), tokens);
  }

  corpus::PackedContexts contexts_ = random_contexts(200, kContext, kVocabulary, 3);
  PlainTokenizer tokenizer_{{11}};
};

TEST_F(EvaluationTest, GivesExactFiguresToIdentityAndAblations) {
  const Json all = evaluate_alone(
      {candidate("identity", [](const at::Tensor& x) { return x.clone(); }),
       candidate("zero", [](const at::Tensor& x) { return at::zeros_like(x); }),
       candidate("mean", [](const at::Tensor& x) { return at::full_like(x, 0.25); })});
  const Json& identity = all.at("candidates").at("identity");
  EXPECT_EQ(identity.at("fvu").as_double(), 0);
  EXPECT_EQ(identity.at("ce_spliced").as_double(), identity.at("ce_clean").as_double());
  EXPECT_NEAR(identity.at("kl_divergence").as_double(), 0, 1e-12);
  EXPECT_EQ(identity.at("ce_recovered_zero").as_double(), 1);
  EXPECT_EQ(identity.at("ce_recovered_mean").as_double(), 1);
  EXPECT_EQ(all.at("candidates").at("zero").at("ce_recovered_zero").as_double(), 0);
  EXPECT_EQ(all.at("candidates").at("mean").at("ce_recovered_mean").as_double(), 0);
  EXPECT_GT(all.at("candidates").at("mean").at("kl_divergence").as_double(), 0.01);
}

TEST_F(EvaluationTest, LeavesSinksInTheMiddleOfAContextAsTheyAre) {
  const std::int64_t sinks =
      std::count(contexts_.token_ids.begin(), contexts_.token_ids.end(), kSink);
  ASSERT_GT(sinks, 20);
  // Shown a sink, this candidate would destroy it.
  double longest = 0;
  const Json all = evaluate_alone({candidate("fragile", [&longest](const at::Tensor& x) {
    longest = std::max(longest, x.norm(2, {1}).max().item<double>());
    return x.norm(2, {1}, true).gt(100).logical_not().to(at::kFloat) * x;
  })});
  EXPECT_LT(longest, 100);
  EXPECT_EQ(all.at("candidates").at("fragile").at("kl_divergence").as_double(), 0);

  // The rows of a spliced run: sinks keep their activation, kept rows get the replacement.
  TinyHost host = TinyHost::random(kVocabulary, kWidth, 3, kSink, 1);
  const HookPoint point = HookPoint::parse(kHook);
  const CleanPass clean =
      run_clean(make_batch(contexts_, 0, 40), {point}, make_context(), tokenizer_, host);
  const at::Tensor spliced =
      run_spliced(clean, point, at::zeros({clean.kept_rows.numel(), kWidth}, at::kFloat), host);
  std::int64_t n_sinks = 0;
  for (std::int64_t row = 0; row < 40 * kContext; ++row) {
    const bool is_kept = (clean.kept_rows == row).any().item<bool>();
    if (contexts_.token_ids[row] != kSink) continue;
    EXPECT_FALSE(is_kept);
    ++n_sinks;
    // Only earlier tokens of the document can have changed what a sink becomes, and it dwarfs them.
    EXPECT_TRUE(at::allclose(spliced[row], clean.final_normalized[row], 0.05, 0.05));
  }
  EXPECT_GT(n_sinks, 4);
}

TEST_F(EvaluationTest, CountsWhatItDropsAndPredicts) {
  std::int64_t kept = 0, predictions = 0;
  for (std::size_t i = 0; i < contexts_.token_ids.size(); ++i) {
    const bool is_kept = contexts_.positions[i] > 0 && contexts_.token_ids[i] != 11 &&
                         contexts_.token_ids[i] != kSink;
    kept += is_kept ? 1 : 0;
    const bool has_next =
        (i + 1) % kContext != 0 && contexts_.documents[i + 1] == contexts_.documents[i];
    predictions += is_kept && has_next ? 1 : 0;
  }
  const Json all =
      evaluate_alone({candidate("identity", [](const at::Tensor& x) { return x.clone(); })});
  const std::int64_t n_tokens = all.at("n_tokens").as_int();
  EXPECT_EQ(n_tokens, kept);
  EXPECT_EQ(n_tokens + all.at("n_dropped").as_int(), 200 * kContext);
  EXPECT_EQ(all.at("n_predictions").as_int(), predictions);
  const Json& figures = all.at("candidates").at("identity");
  EXPECT_EQ(figures.at("n_tokens").as_int(), n_tokens);
  EXPECT_EQ(figures.at("n_dropped").as_int(), 200 * kContext - n_tokens);
}

TEST_F(EvaluationTest, GivesTheSameBitsForEveryNumberOfRanks) {
  const auto without_timing = [](const Json& all) {
    Json out = Json::object();
    for (const auto& [name, value] : all.as_object()) {
      if (name != "timing") out[name] = value;
    }
    return out.dump(2);
  };
  const std::string alone = without_timing(evaluate_alone(several_candidates()));
  for (const int ranks : {2, 3, 4, 5}) {
    std::mutex mutex;
    comm::run_thread_ranks(ranks, 60, [&](comm::Communicator& comm) {
      const Json all = evaluate_on(comm, several_candidates(), make_context(), 200 * kContext);
      const std::lock_guard lock(mutex);
      EXPECT_EQ(without_timing(all), alone) << ranks << " ranks, rank " << comm.rank();
    });
  }
}

TEST_F(EvaluationTest, PutsBaselinesUnderTheirSae) {
  std::vector<Candidate> candidates = several_candidates();
  candidates[2].baseline_of = "topk";
  candidates[2].facts = Json::object({{"n_components", 3}});
  const Json all = evaluate_alone(candidates);
  EXPECT_EQ(all.at("candidates").as_object().size(), 2U);
  EXPECT_EQ(all.at("candidates").at("topk").at("baselines").at("mean").at("n_components").as_int(),
            3);
  EXPECT_TRUE(all.at("timing").at("tokens_per_second").find("topk/mean")->is_number());
  EXPECT_EQ(all.at("candidates").at("topk").at("n_latents").as_int(), 24);
}

TEST_F(EvaluationTest, MeasuresTheFirstTokensOnly) {
  const Json half = evaluate_alone(several_candidates(), 100 * kContext + 3);
  EXPECT_EQ(half.at("n_tokens").as_int() + half.at("n_dropped").as_int(), 100 * kContext);
  EXPECT_NE(half.at("contexts_sha256"), evaluate_alone(several_candidates()).at("contexts_sha256"));
  const Json more = evaluate_alone(several_candidates(), 1'000'000);
  EXPECT_EQ(more.at("n_tokens").as_int() + more.at("n_dropped").as_int(), 200 * kContext);
}

TEST_F(EvaluationTest, ExplainsWhatCannotBeMeasured) {
  const auto comm = comm::make_self_communicator();
  const auto message_of = [&](const EvaluationContext& context, std::int64_t tokens) {
    try {
      evaluate_on(*comm, several_candidates(), context, tokens);
    } catch (const ConfigError& error) {
      return error.first_line();
    }
    return std::string("no error");
  };
  EXPECT_EQ(message_of(make_context(), 15), "evaluation.tokens: 15 is less than one context of 16");
  EXPECT_EQ(message_of(make_context({"hook_embed"}), 160),
            "sae topk: hook point blocks.1.hook_resid_post is not in the cache");
  EvaluationContext nothing = make_context();
  nothing.norm_limits = {0};
  EXPECT_EQ(message_of(nothing, 160),
            "evaluation: none of 160 held-out positions is kept and has a next token");
}

TEST_F(EvaluationTest, StopsOnASignal) {
  set_stop_requested(true);
  try {
    evaluate_alone(several_candidates());
    ADD_FAILURE() << "went on";
  } catch (const StoppedBySignal& error) {
    EXPECT_EQ(error.first_line(), "evaluation stopped by a signal after 0 of 200 contexts");
    EXPECT_EQ(error.code(), ExitCode::kStopped);
  }
  set_stop_requested(false);
}

TEST(OutputLosses, EqualTheHostModelsOwnAndAFloat64Divergence) {
  TinyHost host = TinyHost::random(kVocabulary, kWidth, 1, kSink, 1);
  const at::Tensor clean = random_tensor({20, kWidth}, 1, 1);
  const at::Tensor run = random_tensor({20, kWidth}, 1, 2);
  const at::Tensor rows = at::arange(0, 20, 2, at::kLong);
  const at::Tensor targets = at::arange(10, at::kLong);
  const auto losses = output_losses(clean, {run}, rows, targets, host);
  ASSERT_EQ(losses.size(), 2U);
  const at::Tensor expected =
      host_model::next_token_losses(host, run.index_select(0, rows), targets);
  EXPECT_TRUE(at::allclose(losses[1].cross_entropy, expected, 1e-6, 1e-7));

  const auto log_softmax = [&](const at::Tensor& finals) {
    return host.unembed(finals.index_select(0, rows)).to(at::kDouble).log_softmax(1);
  };
  const at::Tensor p = log_softmax(clean);
  const at::Tensor divergence = (p.exp() * (p - log_softmax(run))).sum(1);
  EXPECT_TRUE(at::allclose(losses[1].kl_divergence, divergence, 1e-6, 1e-7));
}

TEST(EvaluationTable, IsMarkdownWithBaselinesUnderTheirSae) {
  const auto figures = [](double fvu, Json l0) {
    return Json::object({{"fvu", fvu},
                         {"l0", std::move(l0)},
                         {"ce_clean", 3.6444},
                         {"ce_spliced", 4.03},
                         {"ce_zero_ablated", 13.5},
                         {"ce_mean_ablated", 11.25},
                         {"ce_recovered_zero", 0.961},
                         {"ce_recovered_mean", 0.948},
                         {"n_tokens", 16000}});
  };
  Json sae = figures(0.2591, 32.0);
  sae["dead_fraction"] = 0.0125;
  Json pca = figures(0.5, 32);
  pca["n_components"] = 32;
  sae["baselines"] = Json::object({{"pca", pca}, {"untrained", figures(0.9, nullptr)}});
  Json all = Json::object({{"candidates", Json::object({{"topk", sae}})}});
  all["timing"] = Json::object({{"tokens_per_second", Json::object({{"topk", 1234.5}})}});
  EXPECT_EQ(evaluation_table(all),
            "| sae                   |   fvu |   l0 | ce_clean | ce_spliced | ce_zero_ablated | "
            "ce_mean_ablated | "
            "ce_recovered_zero | ce_recovered_mean | dead_fraction | tokens | tokens/s |\n"
            "| --------------------- | ----: | ---: | -------: | ---------: | --------------: | "
            "--------------: | "
            "----------------: | ----------------: | ------------: | -----: | -------: |\n"
            "| topk                  | 0.259 | 32.0 |    3.644 |      4.030 |          13.500 |    "
            "      11.250 | "
            "            0.961 |             0.948 |         0.013 |  16000 |     1234 |\n"
            "| - pca (32 components) | 0.500 | 32.0 |    3.644 |      4.030 |          13.500 |    "
            "      11.250 | "
            "            0.961 |             0.948 |             - |  16000 |        - |\n"
            "| - untrained           | 0.900 |    - |    3.644 |      4.030 |          13.500 |    "
            "      11.250 | "
            "            0.961 |             0.948 |             - |  16000 |        - |\n");
}

}  // namespace
}  // namespace thresher::evaluation
