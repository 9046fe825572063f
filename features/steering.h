#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "features/continuations.h"
#include "features/direction.h"
#include "features/word_list.h"
#include "host_model/generation.h"

namespace thresher::features {

/// What is asked of a model that is steered.
struct SteeringTask {
  std::vector<std::vector<std::int32_t>> prompts;
  std::vector<Attribute> attributes;         // success is the first one's, unless there are words
  std::optional<WordList> words;             // success is their share in the texts
  host_model::GenerationRequest generation;  // how texts are made; prompts and hooks are not used
};

/// A setting of a sweep, or a baseline.
struct SteeringRow {
  std::string name;              // "steered", "plain", "prompting", "embedding"
  std::string point, positions;  // empty where nothing is edited
  double value = 0;
  std::vector<double> log_odds;  // by attribute, mean over prompts, nats
  double kl = 0;                 // mean over prompts, nats
  /// Of the listed words in the texts (WordList::share), mean over prompts; NaN without a list.
  double share = std::numeric_limits<double>::quiet_NaN();
  /// exp of the plain model's mean loss on the tokens that were made, over all prompts; NaN where
  /// none were.
  double perplexity = 0;
  std::vector<std::string> texts;  // one a prompt: what was added to it
  std::int64_t n_edited = 0, n_left_alone = 0;

  /// What a setting is chosen by: the share of the listed words, without a list the log-odds of the
  /// first attribute, NaN without any.
  double success() const;
};

/// Runs steered and plain versions of a task. The subject must outlive it.
class SteeringBench {
 public:
  SteeringBench(const Subject& subject, SteeringTask task);

  SteeringRow plain();
  /// The same behind `prefix`, which is put before every prompt's text (behind its BOS).
  SteeringRow prompting(const std::vector<std::int32_t>& prefix);
  /// One row a value.
  std::vector<SteeringRow> steered(const SteeredSettings& settings);
  /// The mean effect of each direction on each attribute, [directions, attributes] float64:
  /// log-odds steered minus plain, mean over prompts. No text is made.
  at::Tensor effects(const SteeredSettings& settings);
  /// The effect of each direction on success. With a word list every direction makes texts.
  std::vector<double> effects_on_success(const SteeredSettings& settings);

 private:
  std::vector<host_model::Generated> generate(const std::vector<std::vector<std::int32_t>>& prompts,
                                              const SteeredSettings* settings, std::size_t n_rows);
  double mean_share(std::span<const host_model::Generated> texts) const;
  void add_texts(const std::vector<std::vector<std::int32_t>>& prompts,
                 const SteeredSettings* settings, std::vector<SteeringRow>& rows);

  const Subject& subject_;
  SteeringTask task_;
  ContinuationScorer scorer_;
  std::optional<double> plain_share_;
};

/// Among rows of at most `most_perplexity` the one of largest success; -1 if there is none. Rows
/// without a text have no perplexity and do not count.
std::int64_t best_row(const std::vector<SteeringRow>& rows, double most_perplexity);

/// The effect of a direction among those of control directions of its norm at the same place.
struct SteeringControl {
  double effect = 0;                 // of the direction, on success
  std::vector<double> random_pairs;  // effects of differences of random words, ascending
  std::vector<double> isotropic;     // of normal draws, ascending
  std::int64_t n_pairs_below = 0, n_isotropic_below = 0;  // smaller than `effect`
};
struct ControlCounts {
  std::int64_t random_pairs = 99, isotropic = 99;
};
/// `settings` holds one direction and one value, and the base adds it.
SteeringControl control(SteeringBench& bench, const Subject& subject,
                        const SteeredSettings& settings, const ControlCounts& counts,
                        std::uint64_t seed, const PairReading& reading);

/// `vectors` [n, width] scaled to the norm of `direction` [width].
at::Tensor norm_matched(const at::Tensor& vectors, const at::Tensor& direction);
/// `direction` without its component along `confounder`.
at::Tensor projected_out(const at::Tensor& direction, const at::Tensor& confounder);

}  // namespace thresher::features
