#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "features/explanation_prompts.h"

namespace thresher::features {

/// What is known of a latent before it is explained.
struct LatentTexts {
  std::int64_t latent = 0;
  std::vector<Example> activating;  // strongest first, then those of lower quantiles
  std::vector<Example> silent;      // windows in which it does not fire
};

struct ExplanationPlan {
  std::int64_t n_shown = 15;   // activating texts in the question for an explanation
  std::int64_t n_scored = 10;  // other activating texts, and as many silent ones
  std::int64_t texts_per_question = 5;
  std::uint64_t seed = 0;
};

/// Verdicts against the truth. Balanced accuracy is the mean of the shares that are right among the
/// true and among the false; its 95 % interval comes from their Wilson intervals (Newcombe 1998,
/// method 10 for a sum). 0.5 is chance.
struct ExplanationScore {
  std::int64_t n_true = 0, n_true_right = 0;
  std::int64_t n_false = 0, n_false_right = 0;
  std::int64_t n_unreadable = 0;  // verdicts that were asked for and not given in a readable form
  bool is_defined() const { return n_true > 0 && n_false > 0; }
  double balanced_accuracy() const;
  struct Interval {
    double low, high;
  };
  Interval interval() const;
  void add(bool truth, bool verdict);
  ExplanationScore& operator+=(const ExplanationScore& other);
  Json to_json() const;  // null figures where it is not defined
};

struct Explanation {
  std::int64_t latent = 0;
  std::optional<std::string> text;
  std::string problem;  // why there is no text, or no score
  ExplanationScore detection, fuzzing;
};

/// Answers a question; throws what it likes.
using Ask = std::function<std::string(const ChatQuestion&)>;

/// Asks for an explanation from every other activating text, then scores it on those that were not
/// shown, as delphi's two scorers do. *Detection*: which of some activating and silent texts does
/// it describe? *Fuzzing*: is the right part of the text marked? (Wrong marks stand on as many
/// tokens of the same text on which the latent is silent.) The questions are a function of texts
/// and plan. Answers that cannot be read are counted, never guessed.
Explanation explain_latent(const LatentTexts& texts, const ExplanationPlan& plan, const Ask& ask);

}  // namespace thresher::features
