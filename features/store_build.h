#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/json.h"
#include "corpus/tokenizer.h"
#include "features/context_source.h"
#include "features/latent_pass.h"
#include "features/subject.h"
#include "host_model/host_model.h"

namespace thresher::features {

/// An SAE, and the file that its store becomes.
struct StoreTarget {
  const NamedSae* sae = nullptr;
  std::filesystem::path path;
  Json facts = Json::object();  // "sae_sha256" and whatever else only the caller knows
};

/// The distinct hook points of the targets: those that the source must give, in this order.
std::vector<std::string> hook_points_of(const std::vector<StoreTarget>& targets);

/// Bytes that a rank needs for the lists and counts of one SAE, and bytes of temporary disk for all
/// ranks, if `fired` latents fire on a token.
struct StoreEstimate {
  std::uint64_t memory_bytes = 0, disk_bytes = 0;
};
StoreEstimate estimate_store(const StoreOptions& options, const sae::InferenceSae& sae,
                             const ContextSource& source, double fired);

/// How many of `threads` threads give the bits that one gives in the products of a build, tried on
/// the SAEs themselves: `threads`, or 1 after a warning. (The host model has a check of its own.)
int store_threads(const std::vector<StoreTarget>& targets, const host_model::HostModel& model,
                  int threads);

/// Builds the stores of all targets in one pass over the source: units of contexts are dealt to the
/// ranks, and the files have the same bytes for every number of ranks. Rank 0 writes them, each
/// into a temporary file that is renamed when it is whole; what fires is kept beside it in a
/// temporary folder, which all ranks must see. Collective. DataError for token ids that are none
/// and activations that are no numbers; StoppedBySignal when a stop was asked for, with nothing
/// written. Returns {"n_tokens", "n_contexts", "seconds", "stores": [{"path", "bytes"}]}.
Json build_stores(const std::vector<StoreTarget>& targets, ContextSource& source,
                  const corpus::Tokenizer& tokenizer, const host_model::HostModel& model,
                  const StoreOptions& options, comm::Communicator& comm);

}  // namespace thresher::features
