#include "evaluation/baselines.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "sae/metrics.h"
#include "sae/sae_config.h"
#include "tests/evaluation/memory_source.h"
#include "tests/evaluation/tiny_host.h"

namespace thresher::evaluation {
namespace {

namespace fs = std::filesystem;
using testing::MemorySource;
using testing::random_tensor;

constexpr const char* kHook = "blocks.1.hook_resid_post";

/// Rows with variances 9, 4, 1, 0.01, 0.01, 0.01 along rotated axes, and a mean far from zero.
at::Tensor rows_with_three_directions() {
  const at::Tensor basis = std::get<0>(at::linalg_qr(random_tensor({6, 6}, 1, 1)));
  const at::Tensor deviations = at::tensor({3.0F, 2.0F, 1.0F, 0.1F, 0.1F, 0.1F});
  return at::mm(random_tensor({4000, 6}, 1, 2) * deviations, basis.t()) + 40;
}

trainer::TrainJob job_with(std::unique_ptr<sae::SaeConfig> config, const fs::path& run_dir) {
  trainer::TrainJob job;
  job.config.init_sample_rows = 256;
  job.config.batch_tokens = 64;
  job.config.total_tokens = 6400;
  job.seed = 5;
  job.run_dir = run_dir;
  job.saes.push_back(std::move(config));
  return job;
}

std::unique_ptr<sae::SaeConfig> config_of(const std::string& type) {
  std::unique_ptr<sae::SaeConfig> config = sae::default_sae_config(type);
  config->name = type;
  config->hook_point = kHook;
  if (auto* topk = dynamic_cast<sae::TopKConfig*>(config.get())) {
    topk->k = 2;
    topk->aux_k = 3;
  }
  return config;
}

TEST(Pca, FindsTheDirectionsOfLargestVariance) {
  const at::Tensor rows = rows_with_three_directions();
  MemorySource source(kHook, rows);
  const Pca pca = fit_pca(source, 0, 2, 1);
  const at::Tensor gram = at::mm(pca.directions.t(), pca.directions);
  EXPECT_TRUE(at::allclose(gram, at::eye(2), 1e-5, 1e-6));

  const Candidate candidate = pca_candidate(pca, "topk", kHook);
  EXPECT_EQ(candidate.facts.at("n_components").as_int(), 2);
  sae::ReconstructionMetrics metrics(6, 0);
  const Reconstruction made = candidate.apply(rows);
  EXPECT_FALSE(made.latent_acts.defined());
  metrics.add(rows, made.recon, {});
  // What is left: (1 + 0.03) of 14.03, and the drawn rows' own noise.
  EXPECT_NEAR(metrics.fvu(), 1.03 / 14.03, 0.003);
}

TEST(Pca, IsExactWithAllComponents) {
  const at::Tensor rows = rows_with_three_directions();
  MemorySource source(kHook, rows);
  const Reconstruction made = pca_candidate(fit_pca(source, 0, 6, 1), "topk", kHook).apply(rows);
  EXPECT_TRUE(at::allclose(made.recon, rows, 1e-5, 1e-4));
  EXPECT_THROW(fit_pca(source, 0, 7, 1), InternalError);
}

TEST(ComparableComponents, AreKOfATopKAndTheMeanCountOfActiveLatentsElse) {
  MemorySource source(kHook, random_tensor({500, 6}, 1, 3));
  sae::InferenceSae sae;
  sae.architecture = "topk";
  sae.k = 4;
  sae.W_enc = at::eye(6);
  sae.b_enc = at::zeros({6});
  sae.W_dec = at::eye(6);
  sae.b_dec = at::zeros({6});
  EXPECT_EQ(comparable_components(sae, source, 0, 1), 4);
  sae.k = 400;
  EXPECT_EQ(comparable_components(sae, source, 0, 1), 6);
  sae.architecture = "standard";
  EXPECT_EQ(comparable_components(sae, source, 0, 1), 3);  // half of six standard normals
  sae.architecture = "jumprelu";
  sae.threshold = at::full({6}, 0.6745);  // a quarter of a standard normal is above
  EXPECT_EQ(comparable_components(sae, source, 0, 1), 2);  // 1.5
  sae.b_enc = at::full({6}, -100.0);
  EXPECT_EQ(comparable_components(sae, source, 0, 1), 1);
}

TEST(ShuffledDecoder, HoldsTheSameRowsElsewhere) {
  sae::InferenceSae sae;
  sae.W_enc = random_tensor({6, 40}, 1, 1);
  sae.W_dec = random_tensor({40, 6}, 1, 2);
  const sae::InferenceSae shuffled = shuffle_decoder_rows(sae, "topk", 1);
  EXPECT_TRUE(at::equal(shuffled.W_enc, sae.W_enc));
  EXPECT_FALSE(at::equal(shuffled.W_dec, sae.W_dec));
  EXPECT_TRUE(at::equal(std::get<0>(shuffled.W_dec.select(1, 0).sort()),
                        std::get<0>(sae.W_dec.select(1, 0).sort())));
  EXPECT_TRUE(at::equal(shuffle_decoder_rows(sae, "topk", 1).W_dec, shuffled.W_dec));
  EXPECT_FALSE(at::equal(shuffle_decoder_rows(sae, "topk", 2).W_dec, shuffled.W_dec));
}

class CandidatesTest : public ::testing::Test {
 protected:
  CandidatesTest() {
    at::set_num_threads(1);  // rows this small are slower on many threads
    std::string pattern = (fs::temp_directory_path() / "thresher-evaluation-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~CandidatesTest() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST_F(CandidatesTest, AreTheFinishedSaeAndItsBaselines) {
  const at::Tensor rows = rows_with_three_directions();
  for (const std::string type : {"topk", "relu_l1"}) {
    MemorySource source(kHook, rows);
    const trainer::TrainJob job = job_with(config_of(type), folder_);
    const sae::InferenceSae untrained = untrained_sae(job, 0, source);
    fs::create_directories(folder_ / "sae");
    sae::save_saelens(untrained, folder_ / "sae" / type);
    const auto comm = comm::make_self_communicator();
    const auto candidates = make_candidates({}, job, source, *comm);
    ASSERT_EQ(candidates.size(), 4U);
    EXPECT_EQ(candidates[0].name, type);
    EXPECT_EQ(candidates[1].name, "pca");
    EXPECT_EQ(candidates[2].name, "untrained");
    EXPECT_EQ(candidates[3].name, "shuffled_decoder");
    for (std::size_t i = 1; i < 4; ++i) EXPECT_EQ(candidates[i].baseline_of, type);
    // Here the finished SAE is the untrained one.
    EXPECT_TRUE(at::equal(candidates[0].apply(rows).recon, candidates[2].apply(rows).recon));
    EXPECT_FALSE(at::equal(candidates[0].apply(rows).recon, candidates[3].apply(rows).recon));
    EXPECT_TRUE(
        at::equal(candidates[0].apply(rows).latent_acts, candidates[3].apply(rows).latent_acts));

    EvaluationConfig bare;
    bare.baselines = false;
    EXPECT_EQ(make_candidates(bare, job, source, *comm).size(), 1U);
  }
}

TEST_F(CandidatesTest, AreTheSameOnEveryRank) {
  const at::Tensor rows = rows_with_three_directions();
  const trainer::TrainJob job = job_with(config_of("topk"), folder_);
  MemorySource first(kHook, rows);
  fs::create_directories(folder_ / "sae");
  sae::save_saelens(untrained_sae(job, 0, first), folder_ / "sae" / "topk");
  std::vector<at::Tensor> recons(3);
  comm::run_thread_ranks(3, 60, [&](comm::Communicator& comm) {
    MemorySource source(kHook, rows);
    recons[comm.rank()] = make_candidates({}, job, source, comm)[1].apply(rows).recon;
  });
  EXPECT_TRUE(at::equal(recons[0], recons[1]));
  EXPECT_TRUE(at::equal(recons[0], recons[2]));
}

TEST_F(CandidatesTest, MustFitTheCache) {
  MemorySource source(kHook, rows_with_three_directions());
  const trainer::TrainJob job = job_with(config_of("topk"), folder_);
  sae::InferenceSae other = untrained_sae(job, 0, source);
  other.W_enc = random_tensor({5, other.n_latents()}, 1, 1);
  other.W_dec = random_tensor({other.n_latents(), 5}, 1, 2);
  other.b_dec = at::zeros({5});
  fs::create_directories(folder_ / "sae");
  sae::save_saelens(other, folder_ / "sae" / "topk");
  const auto comm = comm::make_self_communicator();
  try {
    make_candidates({}, job, source, *comm);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_NE(
        error.first_line().find("sae topk: it takes 5 dimensions, blocks.1.hook_resid_post has 6"),
        std::string::npos)
        << error.what();
  }
}

TEST(MergedMetrics, EqualThoseOfAllRowsAtOnce) {
  const at::Tensor x = random_tensor({300, 6}, 1, 1) + 1000;
  const at::Tensor recon = x + random_tensor({300, 6}, 0.3, 2);
  const at::Tensor acts = random_tensor({300, 20}, 1, 3).relu();
  sae::ReconstructionMetrics whole(6, 20), merged(6, 20);
  whole.add(x, recon, acts);
  for (const auto& [begin, count] : {std::pair{0, 100}, {100, 0}, {100, 7}, {107, 193}}) {
    sae::ReconstructionMetrics part(6, 20);
    part.add(x.narrow(0, begin, count), recon.narrow(0, begin, count),
             acts.narrow(0, begin, count));
    merged.merge(sae::ReconstructionMetrics::from_bytes(6, 20, part.to_bytes()));
  }
  EXPECT_EQ(merged.n_tokens(), 300);
  EXPECT_NEAR(merged.fvu(), whole.fvu(), 1e-10);
  EXPECT_NEAR(merged.cosine_similarity(), whole.cosine_similarity(), 1e-12);
  EXPECT_DOUBLE_EQ(merged.l0(), whole.l0());
  EXPECT_EQ(merged.fire_counts(), whole.fire_counts());
}

}  // namespace
}  // namespace thresher::evaluation
