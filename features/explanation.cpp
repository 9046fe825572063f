#include "features/explanation.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "core/random.h"

namespace thresher::features {
namespace {

struct Share {
  double value, low, high;
};

/// Wilson's interval of a share at 95 %.
Share wilson(std::int64_t right, std::int64_t count) {
  constexpr double kZ = 1.959963984540054;
  const auto n = static_cast<double>(count);
  const double p = static_cast<double>(right) / n;
  const double centre = (p + kZ * kZ / (2 * n)) / (1 + kZ * kZ / n);
  const double half = kZ / (1 + kZ * kZ / n) * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n));
  return {p, std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

/// `count` of the texts, evenly spaced.
std::vector<Example> spread(std::vector<Example> texts, std::int64_t count) {
  const auto most = static_cast<std::size_t>(count);
  if (texts.size() <= most) return texts;
  std::vector<Example> out;
  for (std::size_t i = 0; i < most; ++i) out.push_back(std::move(texts[i * texts.size() / most]));
  return out;
}

struct Division {
  std::vector<Example> shown, scored;
};

/// Every other text, so that both halves span the same strengths.
Division divide(const LatentTexts& texts, const ExplanationPlan& plan) {
  Division out;
  for (std::size_t i = 0; i < texts.activating.size(); ++i) {
    (i % 2 == 0 ? out.shown : out.scored).push_back(texts.activating[i]);
  }
  out.shown = spread(std::move(out.shown), plan.n_shown);
  out.scored = spread(std::move(out.scored), plan.n_scored);
  return out;
}

template <class Item>
void shuffle(std::vector<Item>& items, const RandomStream& random, std::uint64_t first_draw) {
  for (std::size_t i = items.size(); i > 1; --i) {
    std::swap(items[i - 1], items[random.below(first_draw + i, i)]);
  }
}

/// A text as a judge sees it.
struct Case {
  Example text;
  std::vector<bool> marks;
  bool truth = false;
};

using MakeQuestion =
    std::function<ChatQuestion(const std::vector<Example>&, const std::vector<std::vector<bool>>&)>;

ExplanationScore judge(const std::vector<Case>& cases, std::int64_t texts_per_question,
                       const MakeQuestion& make_question, const Ask& ask) {
  ExplanationScore score;
  const auto step = static_cast<std::size_t>(texts_per_question);
  for (std::size_t first = 0; first < cases.size(); first += step) {
    const std::size_t end = std::min(cases.size(), first + step);
    std::vector<Example> texts;
    std::vector<std::vector<bool>> marks;
    for (std::size_t i = first; i < end; ++i) {
      texts.push_back(cases[i].text);
      marks.push_back(cases[i].marks);
    }
    const auto verdicts = parse_verdicts(ask(make_question(texts, marks)), end - first);
    if (!verdicts) {
      score.n_unreadable += static_cast<std::int64_t>(end - first);
      continue;
    }
    for (std::size_t i = first; i < end; ++i) score.add(cases[i].truth, (*verdicts)[i - first]);
  }
  return score;
}

/// As many marks as there should be, on tokens where the latent is silent; none if there are not
/// enough of those.
std::vector<bool> wrong_marks(const Example& text, const std::vector<bool>& right,
                              const RandomStream& random, std::uint64_t first_draw) {
  std::vector<std::size_t> silent;
  for (std::size_t i = 0; i < text.activations.size(); ++i) {
    if (!(text.activations[i] > 0)) silent.push_back(i);
  }
  const auto n_marks = static_cast<std::size_t>(std::count(right.begin(), right.end(), true));
  if (silent.size() < n_marks) return {};
  shuffle(silent, random, first_draw);
  std::vector<bool> out(right.size(), false);
  for (std::size_t i = 0; i < n_marks; ++i) out[silent[i]] = true;
  return out;
}

std::vector<Case> detection_cases(const LatentTexts& texts, const std::vector<Example>& scored,
                                  const RandomStream& random) {
  std::vector<Case> cases;
  for (const Example& text : scored) cases.push_back({text, {}, true});
  for (const Example& text : spread(texts.silent, static_cast<std::int64_t>(scored.size()))) {
    cases.push_back({text, {}, false});
  }
  shuffle(cases, random, 0);
  return cases;
}

/// Every text once with right and once with wrong marks, in two sets, so that no question holds the
/// same text twice.
std::array<std::vector<Case>, 2> fuzzing_cases(const std::vector<Example>& scored,
                                               const RandomStream& random) {
  constexpr std::uint64_t kDrawsPerText = std::uint64_t{1} << 20U;
  std::array<std::vector<Case>, 2> sets;
  for (std::size_t i = 0; i < scored.size(); ++i) {
    Case right{scored[i], activating_tokens(scored[i]), true};
    Case wrong{scored[i], wrong_marks(scored[i], right.marks, random, (i + 1) * kDrawsPerText),
               false};
    if (wrong.marks.empty()) continue;
    const std::size_t set = random.below(i, 2);
    sets[set].push_back(std::move(right));
    sets[1 - set].push_back(std::move(wrong));
  }
  return sets;
}

}  // namespace

void ExplanationScore::add(bool truth, bool verdict) {
  ++(truth ? n_true : n_false);
  if (truth == verdict) ++(truth ? n_true_right : n_false_right);
}

ExplanationScore& ExplanationScore::operator+=(const ExplanationScore& other) {
  n_true += other.n_true;
  n_true_right += other.n_true_right;
  n_false += other.n_false;
  n_false_right += other.n_false_right;
  n_unreadable += other.n_unreadable;
  return *this;
}

double ExplanationScore::balanced_accuracy() const {
  THRESHER_CHECK(is_defined(), "balanced accuracy without cases of both kinds");
  return (wilson(n_true_right, n_true).value + wilson(n_false_right, n_false).value) / 2;
}

ExplanationScore::Interval ExplanationScore::interval() const {
  const double value = balanced_accuracy();
  const Share a = wilson(n_true_right, n_true), b = wilson(n_false_right, n_false);
  return {value - std::hypot(a.value - a.low, b.value - b.low) / 2,
          value + std::hypot(a.high - a.value, b.high - b.value) / 2};
}

Json ExplanationScore::to_json() const {
  Json out = Json::object({{"balanced_accuracy", nullptr}, {"low", nullptr}, {"high", nullptr}});
  if (is_defined()) {
    out["balanced_accuracy"] = balanced_accuracy();
    out["low"] = interval().low;
    out["high"] = interval().high;
  }
  out["n_true"] = n_true;
  out["n_true_right"] = n_true_right;
  out["n_false"] = n_false;
  out["n_false_right"] = n_false_right;
  out["n_unreadable"] = n_unreadable;
  return out;
}

Explanation explain_latent(const LatentTexts& texts, const ExplanationPlan& plan, const Ask& ask) {
  THRESHER_CHECK(plan.n_shown > 0 && plan.n_scored >= 0 && plan.texts_per_question > 0,
                 "a plan without texts");
  Explanation out;
  out.latent = texts.latent;
  const Division division = divide(texts, plan);
  if (division.shown.empty()) {
    out.problem = "no text activates it";
    return out;
  }
  out.text = parse_explanation(ask(explain_question(division.shown)));
  if (!out.text) {
    out.problem = "the answer holds no explanation";
    return out;
  }
  if (division.scored.empty() || texts.silent.empty()) {
    out.problem = "too few texts to score it on";
    return out;
  }
  const RandomStream random(plan.seed, fmt::format("features.explain.{}", texts.latent));
  out.detection = judge(
      detection_cases(texts, division.scored, random), plan.texts_per_question,
      [&](const auto& shown, const auto&) { return detection_question(*out.text, shown); }, ask);
  const RandomStream marks(plan.seed, fmt::format("features.fuzz.{}", texts.latent));
  for (const std::vector<Case>& cases : fuzzing_cases(division.scored, marks)) {
    out.fuzzing += judge(
        cases, plan.texts_per_question,
        [&](const auto& shown, const auto& right_or_wrong) {
          return fuzzing_question(*out.text, shown, right_or_wrong);
        },
        ask);
  }
  return out;
}

}  // namespace thresher::features
