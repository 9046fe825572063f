#include "features/diagnosis.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "evaluation/clean_pass.h"
#include "features/damage.h"
#include "tests/evaluation/tiny_host.h"
#include "tests/host_model/tiny_llama.h"

namespace thresher::features {
namespace {

using evaluation::RunRecord;
using evaluation::SaeRecord;
using host_model::HookPoint;
using testing::random_tensor;

constexpr const char* kPoint = "blocks.1.hook_resid_post";

/// Curves over 100 logged steps of 10,000 tokens each.
template <class Value>
void add_curve(SaeRecord& sae, const std::string& figure, Value value) {
  evaluation::Curve curve;
  for (int i = 1; i <= 100; ++i) curve.add(1e4 * i, value(i));
  for (auto& [name, old] : sae.curves.figures) {
    if (name == figure) {
      old = curve;
      return;
    }
  }
  sae.curves.figures.emplace_back(figure, curve);
}

Json figures() {
  return Json::object(
      {{"n_latents", 1000},
       {"n_tokens", 16000},
       {"fvu", 0.25},
       {"dead_fraction", 0.05},
       {"dense_fraction", 0.01},
       {"ce_recovered_mean", 0.95},
       {"baselines", Json::object({{"pca", Json::object({{"fvu", 0.5}})},
                                   {"untrained", Json::object({{"ce_recovered_mean", 0.7}})}})}});
}

/// A run of which there is nothing to say.
RunRecord good_run() {
  RunRecord run;
  run.name = "good";
  run.config =
      Json::object({{"train", Json::object({{"total_tokens", 1000000}, {"batch_tokens", 500}})}});
  run.status = Json::object({{"state", "done"}, {"step", 2000}, {"steps", 2000}});
  SaeRecord sae;
  sae.name = "topk";
  sae.config = Json::object(
      {{"hook_point", kPoint}, {"centre_inputs", true}, {"dead_window_tokens", 50000}});
  sae.curves.tokens = 1e6;
  add_curve(sae, "loss", [](int i) { return 0.3 + 0.001 * (i % 2); });
  add_curve(sae, "l0", [](int i) { return 32 + 0.1 * (i % 2); });
  add_curve(sae, "batch_fvu", [](int) { return 0.24; });
  add_curve(sae, "learning_rate", [](int i) { return i <= 80 ? 1e-3 : 1e-3 * (100 - i) / 20; });
  sae.evaluation = figures();
  run.saes.push_back(sae);
  return run;
}

Json good_cache() {
  return Json::object(
      {{"rows", 900000},
       {"dropped", Json::object({{"norm", 0}})},
       {"hook_points",
        Json::object({{kPoint, Json::object({{"norm", Json::object({{"max", 90.0},
                                                                    {"lowest_unit_median", 10.0}})},
                                             {"mean_squared_norm", 1.1},
                                             {"mean_squared_deviation", 1.0}})}})}});
}

std::vector<std::string> names(const RunRecord& run, const Json& cache = good_cache()) {
  std::vector<std::string> out;
  for (const Finding& one : diagnose(run, cache)) out.push_back(one.name);
  return out;
}

using Names = std::vector<std::string>;

TEST(DiagnosisTest, HasNothingToSayOfAGoodRun) {
  EXPECT_EQ(names(good_run()), Names{});
  EXPECT_EQ(findings_text({}), "nothing to say\n");
}

TEST(DiagnosisTest, JudgesHowTheRunEnded) {
  RunRecord run = good_run();
  run.status["state"] = "stopped";
  EXPECT_EQ(names(run), Names{"unfinished"});
  run = good_run();
  run.config["train"]["batch_tokens"] = 2048;
  EXPECT_EQ(names(run), Names{"few_steps"});
  run = good_run();
  run.saes[0].evaluation = Json();
  EXPECT_EQ(names(run), Names{"not_evaluated"});
}

TEST(DiagnosisTest, JudgesCurves) {
  RunRecord run = good_run();
  add_curve(run.saes[0], "l0", [](int i) { return 100.0 - i * 0.5; });
  EXPECT_EQ(names(run), Names{"l0_falling"});
  const Finding falling = diagnose(run, good_cache())[0];
  // Means of 81..90 and 91..100: 100 - 42.75 and 100 - 47.75.
  EXPECT_NEAR(falling.figure, 1 - 52.25 / 57.25, 1e-12);
  EXPECT_EQ(falling.threshold, thresholds::kFalling);
  EXPECT_EQ(falling.severity, Finding::Severity::kWarning);
  EXPECT_EQ(falling.sae, "topk");

  run = good_run();
  add_curve(run.saes[0], "loss", [](int i) { return 2.0 / i; });
  EXPECT_EQ(names(run), Names{"loss_falling"});
  add_curve(run.saes[0], "loss",
            [](int i) { return i < 100 ? 1.0 : std::numeric_limits<double>::quiet_NaN(); });
  EXPECT_EQ(names(run), Names{"loss_not_finite"});

  run = good_run();
  add_curve(run.saes[0], "learning_rate", [](int) { return 1e-3; });
  EXPECT_EQ(names(run), Names{"decay_not_reached"});
}

TEST(DiagnosisTest, JudgesTheDeadWindow) {
  RunRecord run = good_run();
  run.saes[0].config["dead_window_tokens"] = 10000000;
  EXPECT_EQ(names(run), Names{"dead_window"});
}

TEST(DiagnosisTest, JudgesTheData) {
  Json cache = good_cache();
  cache["rows"] = 150000;
  EXPECT_EQ(names(good_run(), cache), (Names{"few_tokens", "many_epochs"}));
  cache["rows"] = 210000;
  EXPECT_EQ(names(good_run(), cache), Names{});
  cache["dropped"]["norm"] = 23;
  EXPECT_EQ(names(good_run(), cache), Names{"outliers_dropped"});
}

TEST(DiagnosisTest, JudgesNorms) {
  Json cache = good_cache();
  cache["hook_points"][kPoint]["norm"]["max"] = 1100.0;
  EXPECT_EQ(names(good_run(), cache), Names{"sinks"});
  cache = good_cache();
  cache["hook_points"][kPoint]["mean_squared_norm"] = 2.0;  // |mean| / |deviation| = 1
  std::vector<Finding> found = diagnose(good_run(), cache);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].name, "outlier_severity");
  EXPECT_NEAR(found[0].figure, 1, 1e-12);
  EXPECT_EQ(found[0].severity, Finding::Severity::kNote);
  RunRecord run = good_run();
  run.saes[0].config["centre_inputs"] = false;
  EXPECT_EQ(diagnose(run, cache)[0].severity, Finding::Severity::kSevere);
}

TEST(DiagnosisTest, JudgesTheEvaluation) {
  const auto with = [](const char* figure, double value) {
    RunRecord run = good_run();
    run.saes[0].evaluation[figure] = value;
    return run;
  };
  EXPECT_EQ(names(with("dead_fraction", 0.2)), Names{"dead_latents"});
  EXPECT_EQ(diagnose(with("dead_fraction", 0.4), Json())[0].severity, Finding::Severity::kSevere);
  EXPECT_EQ(names(with("dense_fraction", 0.2)), Names{"dense_latents"});
  EXPECT_EQ(names(with("ce_recovered_mean", 0.75)), Names{"ce_recovered"});
  EXPECT_EQ(names(with("ce_recovered_mean", 0.65)), Names{"untrained_wins"});
  EXPECT_EQ(names(with("fvu", 0.35)), Names{"overfitting"});
  EXPECT_EQ(names(with("fvu", 0.6)), (Names{"pca_wins", "overfitting"}));
}

TEST(DiagnosisTest, PutsWhatIsSevereFirstAndSaysWhatIsMissingNothing) {
  RunRecord run = good_run();
  run.config["train"]["batch_tokens"] = 2048;
  run.saes[0].evaluation["fvu"] = 0.6;
  EXPECT_EQ(names(run), (Names{"pca_wins", "few_steps", "overfitting"}));
  const Json json = findings_json(diagnose(run, good_cache()));
  EXPECT_EQ(json.as_array()[0].at("severity").as_string(), "severe");
  EXPECT_TRUE(json.as_array()[1].at("sae").is_null());
  RunRecord empty;
  empty.saes.emplace_back();
  EXPECT_EQ(names(empty, Json()), Names{"not_evaluated"});
  Json hostile = Json::object({{"hook_points", "x"}, {"rows", Json::array()}});
  EXPECT_EQ(names(good_run(), hostile), Names{});
}

NamedSae random_named_sae(std::uint64_t seed) {
  NamedSae one{"topk", kPoint, {}};
  one.sae.architecture = "standard";
  one.sae.W_enc = random_tensor({32, 40}, 0.3, seed);
  one.sae.b_enc = random_tensor({40}, 0.1, seed + 1);
  one.sae.W_dec = random_tensor({40, 32}, 0.3, seed + 2);
  one.sae.b_dec = random_tensor({32}, 0.2, seed + 3);
  return one;
}

TEST(DamageTest, SumsAreThoseOfAPassByHand) {
  const auto model = testing::load(testing::tiny_llama({.n_vocabulary = 64}));
  const testing::PlainTokenizer tokenizer;
  const corpus::PackedContexts held_out = testing::random_contexts(3, 8, 64, 5);
  const NamedSae sae = random_named_sae(1);
  evaluation::EvaluationContext context;
  context.cache.hook_points = {kPoint};
  context.cache.drop_norm_above = 0;
  const at::Tensor mean = random_tensor({32}, 1, 9).to(at::kDouble);
  context.training_means = {{mean.const_data_ptr<double>(), mean.const_data_ptr<double>() + 32}};
  const Damage damage =
      measure_damage({.tokens = 24, .draws = 2}, sae, context, held_out, tokenizer, *model);

  double error = 0, spread = 0, loss = 0, kl = 0;
  std::int64_t n_tokens = 0, n_predictions = 0;
  for (std::int64_t c = 0; c < 3; ++c) {
    host_model::TokenBatch batch = evaluation::make_batch(held_out, c, 1);
    const auto run = [&](bool is_spliced, at::Tensor* seen) {
      host_model::ForwardRequest request;
      request.want_final = true;
      request.hooks[HookPoint::parse(kPoint)] = [&](const at::Tensor& x) {
        if (seen != nullptr) *seen = x.clone();
        at::Tensor out = x.clone();
        for (std::int64_t row = 0; row < 8; ++row) {
          if (batch.positions[0][row].item<std::int64_t>() > 0) {
            out[row] = sae.sae.reconstruct(x)[row];
          }
        }
        return is_spliced ? out : at::Tensor();
      };
      return at::log_softmax(model->unembed(model->forward(batch, request)), 1);
    };
    at::Tensor x;
    const at::Tensor clean = run(false, &x), spliced = run(true, nullptr);
    const at::Tensor recon = sae.sae.reconstruct(x);
    for (std::int64_t row = 0; row < 8; ++row) {
      if (batch.positions[0][row].item<std::int64_t>() == 0) continue;
      ++n_tokens;
      error += (x[row] - recon[row]).square().sum().item<double>();
      spread += (x[row].to(at::kDouble) - mean).square().sum().item<double>();
      const auto document = [&](std::int64_t at) {
        return batch.documents[0][at].item<std::int64_t>();
      };
      if (row == 7 || document(row) != document(row + 1)) continue;
      ++n_predictions;
      const std::int64_t next = batch.token_ids[0][row + 1].item<std::int64_t>();
      loss += (clean[row][next] - spliced[row][next]).item<double>();
      kl += (clean[row].exp() * (clean[row] - spliced[row])).sum().item<double>();
    }
  }
  ASSERT_GT(n_predictions, 5);
  EXPECT_EQ(damage.n_tokens, n_tokens);
  EXPECT_EQ(damage.n_predictions, n_predictions);
  EXPECT_NEAR(damage.fvu, error / spread, 1e-5);
  EXPECT_NEAR(damage.loss, loss / static_cast<double>(n_predictions), 1e-5);
  EXPECT_NEAR(damage.kl, kl / static_cast<double>(n_predictions), 1e-5);
  for (const auto* groups : {&damage.by_token, &damage.by_position, &damage.by_document}) {
    double sum = 0;
    std::int64_t count = 0;
    for (const GroupDamage& one : *groups) {
      sum += one.loss * static_cast<double>(one.n_predictions);
      count += one.n_tokens;
    }
    EXPECT_NEAR(sum, loss, 1e-4);
    EXPECT_EQ(count, n_tokens);
  }
  ASSERT_EQ(damage.random_kl.size(), 2U);
  EXPECT_NE(damage.random_kl[0], damage.random_kl[1]);
  EXPECT_GT(damage.random_kl[0], 0);
}

TEST(DamageTest, RanksWhatCostsMostInAll) {
  const std::vector<GroupDamage> groups = {
      {1, 10, 10, 0.5, 0}, {2, 100, 100, 0.1, 0}, {3, 2, 2, 9, 0}, {4, 5, 5, -1, 0}};
  const auto keys = [&](std::size_t top, std::int64_t least) {
    std::vector<std::int64_t> out;
    for (const GroupDamage& one : most_hurt(groups, top, least)) out.push_back(one.key);
    return out;
  };
  EXPECT_EQ(keys(9, 1), (std::vector<std::int64_t>{3, 2, 1, 4}));
  EXPECT_EQ(keys(2, 5), (std::vector<std::int64_t>{2, 1}));
}

TEST(DamageTest, JudgesErrorsAndSeeds) {
  Damage damage;
  damage.kl = 0.3;
  EXPECT_FALSE(error_finding("topk", damage).has_value());
  damage.random_kl = {0.1, 0.2};
  EXPECT_EQ(error_finding("topk", damage)->name, "error_hurts");
  EXPECT_NEAR(error_finding("topk", damage)->figure, 2, 1e-12);
  damage.random_kl = {0.3, 0.3};
  EXPECT_FALSE(error_finding("topk", damage).has_value());
  Stability stability;
  stability.above = 0.4;
  EXPECT_EQ(stability_finding("topk", "runs/b", stability)->name, "unstable_latents");
  stability.above = 0.6;
  EXPECT_FALSE(stability_finding("topk", "runs/b", stability).has_value());
}

TEST(StabilityTest, FindsLatentsInAnotherOrderAndOfAnotherLength) {
  const NamedSae one = random_named_sae(1);
  NamedSae two = one;
  two.sae.W_dec = one.sae.W_dec.flip(0) * 3;
  const Stability stability = decoder_stability(one, two);
  ASSERT_EQ(stability.best_latent.size(), 40U);
  for (std::int64_t latent = 0; latent < 40; ++latent) {
    EXPECT_EQ(stability.best_latent[static_cast<std::size_t>(latent)], 39 - latent);
    EXPECT_NEAR(stability.best_cosine[static_cast<std::size_t>(latent)], 1, 1e-5);
  }
  EXPECT_NEAR(stability.mean, 1, 1e-5);
  EXPECT_NEAR(stability.above, 1, 1e-12);
  EXPECT_LT(decoder_stability(one, random_named_sae(77)).above, 0.2);
  two.sae.W_dec = random_tensor({40, 16}, 1, 1);
  two.sae.W_enc = random_tensor({16, 40}, 1, 1);
  EXPECT_THROW(decoder_stability(one, two), ConfigError);
}

}  // namespace
}  // namespace thresher::features
