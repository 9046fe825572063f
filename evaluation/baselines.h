#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "activation_cache/activation_source.h"
#include "comm/communicator.h"
#include "evaluation/evaluation.h"
#include "sae/inference_sae.h"
#include "trainer/trainer.h"

namespace thresher::evaluation {

/// The finished SAEs of a run (RUN/sae/NAME of every SAE of the job), each followed by its
/// baselines if the config wants them. Collective: rank 0 fits, all ranks get the same bits.
std::vector<Candidate> make_candidates(const EvaluationConfig& config, const trainer::TrainJob& job,
                                       activation_cache::ActivationSource& source,
                                       comm::Communicator& comm);

/// The most rows that a PCA is fitted on.
inline constexpr std::int64_t kPcaRows = 131072;

/// Mean and leading principal directions of activations.
struct Pca {
  at::Tensor mean;        // [d_in] float32: the training mean
  at::Tensor directions;  // [d_in, k] float32, orthonormal columns, largest variance first
};
/// The k directions of largest variance about the training mean, of at most kPcaRows training rows
/// chosen by `seed` (fewer where the rows would fill more than 512 MiB). 1 <= k <= d_in.
Pca fit_pca(activation_cache::ActivationSource& source, std::size_t hook_index, std::int64_t k,
            std::uint64_t seed);
/// Name "pca"; facts n_components and l0 = k.
Candidate pca_candidate(const Pca& pca, const std::string& sae_name, const std::string& hook_point);

/// The components that make PCA comparable: k of a TopK SAE, else the rounded mean number of active
/// latents over a sample of training rows; at least 1, at most d_in.
std::int64_t comparable_components(const sae::InferenceSae& sae,
                                   activation_cache::ActivationSource& source,
                                   std::size_t hook_index, std::uint64_t seed);

/// The SAE with its decoder rows in another order, drawn by `seed`.
sae::InferenceSae shuffle_decoder_rows(const sae::InferenceSae& sae, const std::string& name,
                                       std::uint64_t seed);

/// The SAE of the job's index-th config as it was before its first training step.
sae::InferenceSae untrained_sae(const trainer::TrainJob& job, std::size_t index,
                                activation_cache::ActivationSource& source);

}  // namespace thresher::evaluation
