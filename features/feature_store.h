#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "features/explanation_prompts.h"

namespace thresher::features {

/// Where a run keeps the store of one of its SAEs: RUN/features/NAME.sqlite.
std::filesystem::path store_path(const std::filesystem::path& run_dir, std::string_view sae);

/// Bins of the histogram of a latent's activations: four to a doubling, the same for every latent
/// and every store, so that nothing has to be known before the pass. Bin b holds
/// [2^(b / 4 - 12), 2^((b + 1) / 4 - 12)); the first and the last also hold what lies beyond.
inline constexpr std::int64_t kHistogramBins = 128;
/// The lower end of bin b; of b = kHistogramBins the upper end of the last.
double histogram_edge(std::int64_t bin);
/// The bin of an activation > 0.
std::int64_t histogram_bin(float activation);

/// A window of a context around an activation.
struct StoredExample : Example {
  enum class Kind { kTop, kQuantile, kSilent } kind = Kind::kTop;
  /// Of kQuantile: its group, from 0 (weakest) on; see docs/feature-store.md.
  std::int64_t quantile = 0;
  float activation = 0;       // the largest in the whole context; 0 of kSilent
  std::int64_t context = 0;   // number in the packed text
  std::int64_t position = 0;  // of the largest activation in the context; of kSilent the window's
                              // middle
  std::int64_t start = 0;     // position of the window's first token
  std::vector<std::int32_t> token_ids;
};

/// A token and what a unit of the latent adds to its logit (W_dec times
/// host_model::HostModel::unembedding).
struct TokenEffect {
  std::int32_t token_id = 0;
  std::string token;  // bytes
  float effect = 0;
};

struct NeighbourLatent {
  std::int64_t latent = 0;
  float cosine = 0;  // of the decoder directions
};

/// A latent that fires on the same tokens, counted on the tokens that facts() name.
struct CoFiringLatent {
  std::int64_t latent = 0;
  std::int64_t n_both = 0;
  double jaccard = 0;  // tokens on which both fire over those on which either does
  double pmi = 0;      // log of P(both) / (P(one) P(other)), nats
};

struct StoredExplanation {
  std::int64_t latent = 0;
  std::string text;    // at most kMaxExplanationBytes
  std::string method;  // how it was found, "chat"
  std::string model;   // who wrote it
  Json scores;         // what is known of its quality; an object
};
inline constexpr std::size_t kMaxExplanationBytes = 4096;

/// How well another SAE, usually of another seed, finds the latent again: the decoder direction
/// that is nearest to its own.
struct LatentInOther {
  std::string other;  // the other run, as it was named
  std::int64_t other_latent = 0;
  double cosine = 0;
};

/// What lists show of a latent.
struct LatentSummary {
  std::int64_t latent = 0;
  std::int64_t n_fired = 0;  // tokens
  double density = 0;        // of all tokens seen
  double mean = 0;           // activation where it fires; 0 if it never does
  float maximum = 0;
  std::vector<std::string> tokens;  // the tokens of its strongest contexts, most frequent first
  std::string explanation;          // the newest; empty if there is none
};

struct StoredFeature {
  LatentSummary summary;
  std::vector<std::pair<std::int64_t, std::int64_t>> histogram;  // (bin, tokens) where not 0
  std::vector<TokenEffect> promoted, suppressed;                 // strongest first
  std::vector<NeighbourLatent> neighbours;                       // nearest first
  std::vector<CoFiringLatent> co_firing;                         // highest Jaccard first
  /// Strongest first, then the quantile groups from the strongest down, then silent ones.
  std::vector<StoredExample> examples;
  std::vector<StoredExplanation> explanations;  // newest first
  std::vector<LatentInOther> stability;         // by name; empty where nothing was compared
};

enum class LatentOrder { kNumber, kDensity, kMaximum, kMean };

/// A feature store as `thresher features build` leaves it, opened for reading: one SQLite file for
/// one SAE (docs/feature-store.md). Treated as hostile: it is opened defensively, its schema must
/// be ours to the letter, and every size is checked. One object belongs to one thread; any number
/// may be open at once.
class FeatureStore {
 public:
  /// ConfigError where there is no file; DataError for a file that is no store, or of another
  /// version.
  explicit FeatureStore(const std::filesystem::path& path);
  ~FeatureStore();
  FeatureStore(FeatureStore&&) noexcept;
  FeatureStore& operator=(FeatureStore&&) noexcept;

  /// What the store was made from: {"sae", "sae_sha256", "hook_point", "n_latents", "host_model",
  /// "tokenizer", "corpus", "n_tokens", "n_contexts", ...} (docs/feature-store.md).
  const Json& facts() const;
  std::int64_t n_latents() const;

  /// Everything about a latent. UsageError for a number that is none; DataError for damage.
  StoredFeature feature(std::int64_t latent) const;
  /// `limit` latents from `offset` on; ties by number. kNumber ascends, all others descend, unless
  /// `reverse`.
  std::vector<LatentSummary> list(LatentOrder order, bool reverse, std::int64_t offset,
                                  std::int64_t limit) const;
  /// Latents with every word of `words` in an explanation, then those with every word somewhere in
  /// the tokens on which they fire, the tokens they promote, or their contexts; the best match
  /// first, at most `limit`. Words match from their beginning, without regard to case; nothing in
  /// them is an operator. A text without letters and digits is looked for in the tokens as it
  /// stands. UsageError for more than 1,000 bytes or no word at all.
  std::vector<LatentSummary> search(std::string_view words, std::int64_t limit) const;
  /// The summary alone; errors as of feature().
  LatentSummary summary(std::int64_t latent) const;
  /// The token ids of a context that an example refers to. DataError if it is not there.
  std::vector<std::int32_t> context(std::int64_t number) const;
  /// The bytes of a token that the store refers to.
  const std::string& token(std::int32_t id) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Adds explanations to a store in one transaction; one of the same latent, method and model is
/// replaced. One process at a time. UsageError for a latent that is none, DataError for a text that
/// is too long.
void add_explanations(const std::filesystem::path& path,
                      const std::vector<StoredExplanation>& explanations);

/// Notes for every latent what `other` has of it: other_latent and cosine, one a latent of the
/// store; what was noted of the same `other` is replaced. One process at a time. UsageError for
/// another number of latents.
void add_stability(const std::filesystem::path& path, const std::string& other,
                   const std::vector<std::int64_t>& other_latent,
                   const std::vector<double>& cosine);

/// For --json and the server. Token bytes are made visible (core/visible_text.h).
Json to_json(const LatentSummary& summary);
Json to_json(const StoredFeature& feature);

}  // namespace thresher::features
