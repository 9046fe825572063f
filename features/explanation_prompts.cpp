#include "features/explanation_prompts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "core/error.h"
#include "core/visible_text.h"

namespace thresher::features {
namespace {

constexpr std::size_t kLongestExplanation = 512;

constexpr std::string_view kExplainTask =
    "You examine one feature inside a language model. You are given short texts in which the "
    "feature is active; the tokens on which it is active stand between << and >>, and below each "
    "text stand those tokens with their strength from 0 to 10. Find the most specific property "
    "that the marked tokens, or their contexts, have in common: a meaning, a grammatical role, a "
    "language, a format, what tends to come next. Ignore texts that do not fit the rest. Do not "
    "list the texts and do not speak of marks or of the feature. Answer with one line: "
    "\"Explanation: \" and at most 20 words.";

constexpr std::string_view kDetectionTask =
    "You check an explanation of a feature inside a language model. You are given the explanation "
    "and numbered texts. For each text decide whether the feature would be active anywhere in it: "
    "1 if it would, 0 if not. Any number of them may be 1. Answer with a list of zeros and ones "
    "in brackets, one a text in their order, and nothing else, for example [0, 1, 1, 0, 0].";

constexpr std::string_view kFuzzingTask =
    "You check an explanation of a feature inside a language model. You are given the explanation "
    "and numbered texts in which some tokens stand between << and >>. For each text decide whether "
    "the marked tokens are those that the explanation describes: 1 if they are, 0 if the marks are "
    "in the wrong place. Any number of them may be 1. Answer with a list of zeros and ones in "
    "brackets, one a text in their order, and nothing else, for example [0, 1, 1, 0, 0].";

std::vector<bool> no_marks(const Example& example) {
  return std::vector<bool>(example.tokens.size(), false);
}

std::string strengths(const Example& example, const std::vector<bool>& marked) {
  const float largest = example.activations.empty() ? 0
                                                    : *std::max_element(example.activations.begin(),
                                                                        example.activations.end());
  std::string out;
  for (std::size_t i = 0; i < marked.size(); ++i) {
    if (!marked[i] || !(largest > 0)) continue;
    const double strength = 10.0 * static_cast<double>(example.activations[i] / largest);
    out += fmt::format("{}(\"{}\", {:.0f})", out.empty() ? "" : ", ",
                       visible_text(example.tokens[i]), strength);
  }
  return out;
}

std::string numbered(std::span<const Example> texts, std::span<const std::vector<bool>> marks) {
  std::string out;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    out += fmt::format("\nText {}: {}", i + 1,
                       marked_text(texts[i], marks.empty() ? no_marks(texts[i]) : marks[i]));
  }
  return out;
}

ChatQuestion judge_question(std::string_view task, std::string_view explanation,
                            std::span<const Example> texts,
                            std::span<const std::vector<bool>> marks) {
  ChatQuestion question;
  question.messages = {{"system", std::string(task)},
                       {"user", fmt::format("Explanation: {}\n{}", visible_text(explanation),
                                            numbered(texts, marks))}};
  question.max_tokens = 64;
  return question;
}

std::string_view trimmed(std::string_view text) {
  const auto is_space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

/// Cut between characters.
std::string_view cut(std::string_view text, std::size_t most) {
  if (text.size() <= most) return text;
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0U) == 0x80U) --most;
  return text.substr(0, most);
}

std::optional<std::vector<bool>> parse_flags(std::string_view list) {
  std::vector<bool> flags;
  bool wants_value = true;
  for (const char c : list) {
    if (std::isspace(static_cast<unsigned char>(c)) != 0) continue;
    if (wants_value ? (c != '0' && c != '1') : c != ',') return {};
    if (wants_value) flags.push_back(c == '1');
    wants_value = !wants_value;
  }
  if (wants_value) return {};
  return flags;
}

}  // namespace

std::string marked_text(const Example& example, const std::vector<bool>& marked) {
  THRESHER_CHECK(marked.size() == example.tokens.size(), "one flag a token");
  // Tokens may end inside a character, so stretches are made visible whole.
  std::string out, stretch;
  const auto flush = [&](bool is_marked) {
    if (stretch.empty()) return;
    out += is_marked ? "<<" + visible_text(stretch) + ">>" : visible_text(stretch);
    stretch.clear();
  };
  for (std::size_t i = 0; i < marked.size(); ++i) {
    if (i > 0 && marked[i] != marked[i - 1]) flush(marked[i - 1]);
    stretch += example.tokens[i];
  }
  if (!marked.empty()) flush(marked.back());
  return out;
}

std::vector<bool> activating_tokens(const Example& example, double fraction) {
  THRESHER_CHECK(example.activations.size() == example.tokens.size(), "one activation a token");
  std::vector<bool> out = no_marks(example);
  if (out.empty()) return out;
  const float largest = *std::max_element(example.activations.begin(), example.activations.end());
  if (!(largest > 0)) return out;
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<double>(example.activations[i]) >= fraction * static_cast<double>(largest);
  }
  return out;
}

ChatQuestion explain_question(std::span<const Example> examples) {
  std::string list;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const std::vector<bool> marked = activating_tokens(examples[i]);
    list += fmt::format("{}Text {}: {}\nStrengths: {}\n", i == 0 ? "" : "\n", i + 1,
                        marked_text(examples[i], marked), strengths(examples[i], marked));
  }
  ChatQuestion question;
  question.messages = {{"system", std::string(kExplainTask)}, {"user", list}};
  question.max_tokens = 256;
  return question;
}

std::optional<std::string> parse_explanation(std::string_view answer) {
  constexpr std::string_view kKey = "explanation:";
  std::string lower(answer);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::string_view text = trimmed(answer);
  const std::size_t place = lower.rfind(kKey);
  if (place != std::string::npos) {
    text = trimmed(answer.substr(place + kKey.size()));
    text = text.substr(0, text.find('\n'));
  } else if (const std::size_t line = text.rfind('\n'); line != std::string_view::npos) {
    text = text.substr(line + 1);
  }
  const auto is_wrapping = [](char c) {
    return c == '"' || c == '*' || c == '`' || std::isspace(static_cast<unsigned char>(c)) != 0;
  };
  while (!text.empty() && is_wrapping(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_wrapping(text.back())) text.remove_suffix(1);
  if (text.empty()) return {};
  return std::string(cut(text, kLongestExplanation));
}

ChatQuestion detection_question(std::string_view explanation, std::span<const Example> texts) {
  return judge_question(kDetectionTask, explanation, texts, {});
}

ChatQuestion fuzzing_question(std::string_view explanation, std::span<const Example> texts,
                              std::span<const std::vector<bool>> marks) {
  THRESHER_CHECK(marks.size() == texts.size(), "marks for every text");
  return judge_question(kFuzzingTask, explanation, texts, marks);
}

std::optional<std::vector<bool>> parse_verdicts(std::string_view answer, std::size_t count) {
  std::size_t close = answer.rfind(']');
  while (close != std::string_view::npos) {
    const std::size_t open = answer.rfind('[', close);
    if (open == std::string_view::npos) return {};
    auto flags = parse_flags(answer.substr(open + 1, close - open - 1));
    if (flags && flags->size() == count) return flags;
    if (open == 0) return {};
    close = answer.rfind(']', open - 1);
  }
  return {};
}

}  // namespace thresher::features
