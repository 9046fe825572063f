#include "evaluation/baselines.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "core/error.h"
#include "core/random.h"
#include "trainer/patience.h"
#include "trainer/trained_sae.h"

namespace thresher::evaluation {
namespace {

using activation_cache::ActivationSource;

constexpr std::int64_t kMaxSampleBytes = 512LL << 20;
constexpr std::int64_t kCovarianceChunkRows = 8192;
constexpr std::int64_t kSparsitySampleRows = 4096;

at::Tensor sample_rows(ActivationSource& source, std::size_t hook_index, std::uint64_t seed,
                       std::int64_t n_rows) {
  const std::int64_t d_in = source.hook_points()[hook_index].d_in;
  const std::int64_t n_fitting =
      kMaxSampleBytes / (d_in * static_cast<std::int64_t>(sizeof(float)));
  n_rows = std::min(
      {n_rows, source.statistics(hook_index).n_rows, std::max<std::int64_t>(n_fitting, 1)});
  at::Tensor rows = at::empty({n_rows, d_in}, at::kFloat);
  source.sample_rows(hook_index, seed, n_rows,
                     {rows.mutable_data_ptr<float>(), static_cast<std::size_t>(rows.numel())});
  return rows;
}

/// Rank 0's float32 tensor on every rank; the others pass one of the same shape.
void broadcast(at::Tensor& tensor, comm::Communicator& comm, std::string_view what) {
  tensor = tensor.contiguous();
  const std::span<float> values(tensor.mutable_data_ptr<float>(),
                                static_cast<std::size_t>(tensor.numel()));
  const auto mine = std::as_bytes(values);
  std::vector<std::byte> bytes(mine.begin(), mine.end());
  comm.broadcast(bytes, 0, what);
  THRESHER_CHECK(bytes.size() == values.size_bytes(), "rank 0 has a tensor of another shape");
  std::memcpy(values.data(), bytes.data(), bytes.size());
}

/// Fitted on rank 0, because ranks with other numbers of threads might differ in the last bits.
Candidate shared_pca_candidate(const sae::InferenceSae& trained, const sae::SaeConfig& config,
                               std::uint64_t seed, ActivationSource& source,
                               comm::Communicator& comm) {
  const std::size_t hook_index = source.hook_index(config.hook_point);
  Pca pca;
  std::int64_t k = 0;
  trainer::run_on_root(
      comm,
      [&] {
        k = comparable_components(trained, source, hook_index, seed);
        pca = fit_pca(source, hook_index, k, seed);
      },
      "evaluation.pca");
  comm.all_reduce_max(std::span<std::int64_t>(&k, 1), "evaluation.pca.k");
  if (!comm.is_root()) {
    pca = {at::empty({trained.d_in()}, at::kFloat), at::empty({trained.d_in(), k}, at::kFloat)};
  }
  broadcast(pca.mean, comm, "evaluation.pca.mean");
  broadcast(pca.directions, comm, "evaluation.pca.directions");
  return pca_candidate(pca, config.name, config.hook_point);
}

}  // namespace

std::int64_t comparable_components(const sae::InferenceSae& sae, ActivationSource& source,
                                   std::size_t hook_index, std::uint64_t seed) {
  std::int64_t k = sae.k;
  if (sae.architecture != "topk") {
    const at::Tensor rows = sample_rows(source, hook_index, seed, kSparsitySampleRows);
    const auto n_active = at::count_nonzero(sae.encode_dense(rows)).item<std::int64_t>();
    k = static_cast<std::int64_t>(
        std::llround(static_cast<double>(n_active) / static_cast<double>(rows.size(0))));
  }
  return std::clamp<std::int64_t>(k, 1, sae.d_in());
}

Pca fit_pca(ActivationSource& source, std::size_t hook_index, std::int64_t k, std::uint64_t seed) {
  const activation_cache::SourceStatistics& statistics = source.statistics(hook_index);
  const auto d_in = static_cast<std::int64_t>(statistics.mean.size());
  THRESHER_CHECK(k >= 1 && k <= d_in, fmt::format("PCA with {} of {} components", k, d_in));
  const at::Tensor mean = at::tensor(statistics.mean, at::kDouble);
  const at::Tensor rows = sample_rows(source, hook_index, seed, kPcaRows);
  at::Tensor covariance = at::zeros({d_in, d_in}, at::kDouble);
  for (std::int64_t start = 0; start < rows.size(0); start += kCovarianceChunkRows) {
    const std::int64_t count = std::min(kCovarianceChunkRows, rows.size(0) - start);
    const at::Tensor centred = rows.narrow(0, start, count).to(at::kDouble).sub_(mean);
    covariance.addmm_(centred.t(), centred);
  }
  covariance.div_(static_cast<double>(rows.size(0)));
  const auto [values, vectors] = at::linalg_eigh(covariance);
  // Eigenvalues ascend.
  const at::Tensor leading = vectors.narrow(1, d_in - k, k).flip(1);
  return {mean.to(at::kFloat), leading.to(at::kFloat).contiguous()};
}

Candidate pca_candidate(const Pca& pca, const std::string& sae_name,
                        const std::string& hook_point) {
  Candidate out;
  out.name = "pca";
  out.baseline_of = sae_name;
  out.hook_point = hook_point;
  out.d_in = pca.directions.size(0);
  const std::int64_t k = pca.directions.size(1);
  out.facts = Json::object({{"n_components", k}, {"l0", k}});
  out.apply = [pca](const at::Tensor& x) {
    const at::Tensor mean = pca.mean.to(x.device());
    const at::Tensor directions = pca.directions.to(x.device());
    return Reconstruction{at::mm(at::mm(x - mean, directions), directions.t()).add_(mean), {}};
  };
  return out;
}

sae::InferenceSae shuffle_decoder_rows(const sae::InferenceSae& sae, const std::string& name,
                                       std::uint64_t seed) {
  const Permutation order(static_cast<std::uint64_t>(sae.n_latents()), seed,
                          "evaluation.shuffled_decoder." + name);
  std::vector<std::int64_t> rows;
  for (std::uint64_t i = 0; i < order.size(); ++i)
    rows.push_back(static_cast<std::int64_t>(order(i)));
  sae::InferenceSae shuffled = sae;
  shuffled.W_dec = sae.W_dec.index_select(0, at::tensor(rows, at::kLong));
  return shuffled;
}

sae::InferenceSae untrained_sae(const trainer::TrainJob& job, std::size_t index,
                                ActivationSource& source) {
  const sae::SaeConfig& config = *job.saes.at(index);
  trainer::TrainedSae untrained;
  untrained.name = config.name;
  untrained.hook_index = source.hook_index(config.hook_point);
  untrained.sae = sae::make_training_sae(config, source.hook_points()[untrained.hook_index].d_in);
  untrained.transform = sae::make_input_transform(config, source.statistics(untrained.hook_index));
  untrained.centre = at::tensor(untrained.transform.centre, at::kDouble).to(at::kFloat);
  trainer::initialise(untrained, job, source);
  return untrained.sae->to_inference(untrained.transform);
}

std::vector<Candidate> make_candidates(const EvaluationConfig& config, const trainer::TrainJob& job,
                                       ActivationSource& source, comm::Communicator& comm) {
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i < job.saes.size(); ++i) {
    const sae::SaeConfig& sae_config = *job.saes[i];
    sae::InferenceSae trained;
    comm.agree(
        [&] {
          trained = sae::load_saelens(job.run_dir / "sae" / sae_config.name);
          const std::int64_t d_in =
              source.hook_points()[source.hook_index(sae_config.hook_point)].d_in;
          if (trained.d_in() == d_in) return;
          throw ConfigError(
              fmt::format("sae {}: it takes {} dimensions, {} has {}", sae_config.name,
                          trained.d_in(), sae_config.hook_point, d_in),
              "the SAE that was trained on this cache");
        },
        "evaluation.load");
    const auto add = [&](const std::string& name, const sae::InferenceSae& sae) {
      candidates.push_back(sae_candidate(name, sae_config.hook_point, sae.on(job.device)));
    };
    add(sae_config.name, trained);
    if (!config.baselines) continue;

    candidates.push_back(shared_pca_candidate(trained, sae_config, job.seed, source, comm));
    sae::InferenceSae untrained;
    comm.agree([&] { untrained = untrained_sae(job, i, source); }, "evaluation.untrained");
    add("untrained", untrained);
    candidates.back().baseline_of = sae_config.name;
    const sae::InferenceSae shuffled = shuffle_decoder_rows(trained, sae_config.name, job.seed);
    add("shuffled_decoder", shuffled);
    candidates.back().baseline_of = sae_config.name;
  }
  return candidates;
}

}  // namespace thresher::evaluation
