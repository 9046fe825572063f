#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "features/labelled_texts.h"
#include "features/subject.h"

namespace thresher::features {

/// What the host model computes on one document, at the positions that the SAEs' training kept.
struct DocumentActivations {
  std::size_t document = 0;             // number in the list of texts
  std::vector<std::int32_t> token_ids;  // of the kept positions
  at::Tensor embedded;                  // [kept, d_model] float32: hook_embed
  at::Tensor activations;               // [kept, d_model] float32: the hook point asked for
};

/// Runs the documents through the host model as for training (contexts of the same length, BOS, the
/// same positions dropped), several to a pass, and calls `take` with each in order. A document in
/// which no position is kept is not shown. `most_tokens`: so many kept positions a document, the
/// first ones; 0: all.
void for_each_document(const Subject& subject, const std::string& hook_point,
                       const std::vector<LabelledText>& texts, std::int64_t most_tokens,
                       const std::function<void(const DocumentActivations&)>& take);

/// How a document's tokens become one number a feature.
enum class Pooling { kMean, kMax };

/// One vector a document and family of features; [documents, features] float32.
struct PooledDocuments {
  std::vector<std::size_t> documents;  // numbers of those that have kept positions
  std::vector<std::int64_t> n_tokens;  // kept, of each
  at::Tensor latents;                  // pooled latent activations
  at::Tensor untrained;                // the same of `untrained`
  at::Tensor raw;                      // mean of the activations
  at::Tensor embedded;                 // mean of hook_embed
  /// Of each document, (token id, count), ascending.
  std::vector<std::vector<std::pair<std::int32_t, std::int64_t>>> token_counts;
};

/// An SAE that has learned nothing, to compare with: as many latents as `sae`, random unit encoder
/// directions that are also its decoder, b_dec the mean of the texts' activations, TopK with the
/// mean number of latents that are active in `sae`. Mean and number are taken over the first kept
/// positions of the texts, at most 8,192.
sae::InferenceSae make_untrained_sae(const Subject& subject, const NamedSae& sae,
                                     const std::vector<LabelledText>& texts,
                                     std::int64_t most_tokens, std::uint64_t seed);

/// Pools every document; memory is what is returned and one pass of the model. ConfigError where
/// that would be more than 8 GiB.
PooledDocuments pool_documents(const Subject& subject, const NamedSae& sae,
                               const sae::InferenceSae& untrained,
                               const std::vector<LabelledText>& texts, Pooling pooling,
                               std::int64_t most_tokens);

}  // namespace thresher::features
