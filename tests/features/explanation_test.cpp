#include "features/explanation.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "features/chat_client.h"

namespace thresher::features {
namespace {

Example example(const std::string& word, float activation) {
  return {{"the ", word, " of ", "it"}, {0, activation, 0, 0}};
}

LatentTexts texts_about_ships() {
  LatentTexts texts;
  texts.latent = 7;
  for (int i = 0; i < 20; ++i) {
    texts.activating.push_back(example("ship" + std::to_string(i), 20.0F - static_cast<float>(i)));
    texts.silent.push_back(example("stone" + std::to_string(i), 0));
  }
  return texts;
}

/// A judge that knows the truth: texts with a ship, and marks that stand on one.
std::string true_verdicts(const ChatQuestion& question, bool inverted) {
  const std::string& text = question.messages.at(1).content;
  const bool is_fuzzing = question.messages.at(0).content.find("<<") != std::string::npos;
  std::string verdicts = "Sure: [";
  for (std::size_t at = text.find("\nText "); at != std::string::npos;) {
    const std::size_t next = text.find("\nText ", at + 1);
    const std::string one = text.substr(at, next == std::string::npos ? next : next - at);
    const bool yes = one.find(is_fuzzing ? "<<ship" : "ship") != std::string::npos;
    verdicts += (verdicts.back() == '[' ? "" : ", ") + std::string(yes != inverted ? "1" : "0");
    at = next;
  }
  return verdicts + "]";
}

TEST(ExplanationPrompts, MarkNeighboursTogetherAndMakeHostileBytesVisible) {
  const Example text{{"a", " b", "\x1b[2J",
                      " \xe2\x80\xae"
                      "d"},
                     {0, 1, 2, 0}};
  EXPECT_EQ(marked_text(text, {false, true, true, false}), "a<< b\\x1b[2J>> \\u{202e}d");
  EXPECT_EQ(marked_text(text, {true, false, false, false}), "<<a>> b\\x1b[2J \\u{202e}d");
  EXPECT_EQ(activating_tokens({{"a", "b", "c"}, {10, 3, 2.9F}}),
            (std::vector<bool>{true, true, false}));
  EXPECT_EQ(activating_tokens({{"a", "b"}, {0, 0}}), (std::vector<bool>{false, false}));
}

TEST(ExplanationPrompts, AnExplanationIsFoundInWhatModelsSay) {
  EXPECT_EQ(parse_explanation("Explanation: names of ships"), "names of ships");
  EXPECT_EQ(parse_explanation("Let me think.\n**explanation:** \"names of ships\"\nBye"),
            "names of ships");
  EXPECT_EQ(parse_explanation("thinking\nnames of ships\n"), "names of ships");
  EXPECT_EQ(parse_explanation("EXPLANATION: a\nExplanation: b"), "b");
  EXPECT_EQ(parse_explanation(" \n "), std::nullopt);
  EXPECT_EQ(parse_explanation("Explanation: "), std::nullopt);
  std::string wide;
  for (int i = 0; i < 300; ++i) wide += "\xc3\xa9";
  EXPECT_EQ(parse_explanation("x" + wide)->size(), 511U);  // never half a character
}

TEST(ExplanationPrompts, VerdictsAreReadStrictly) {
  EXPECT_EQ(parse_verdicts("[1, 0, 1]", 3), (std::vector<bool>{true, false, true}));
  EXPECT_EQ(parse_verdicts("as in [0,0,0]: [1,0 ,1].", 3), (std::vector<bool>{true, false, true}));
  EXPECT_EQ(parse_verdicts("[1, 0, 1] (see [2])", 3), (std::vector<bool>{true, false, true}));
  EXPECT_EQ(parse_verdicts("[1, 0]", 3), std::nullopt);
  EXPECT_EQ(parse_verdicts("[1, 0, 2]", 3), std::nullopt);
  EXPECT_EQ(parse_verdicts("[1, 0, 1,]", 3), std::nullopt);
  EXPECT_EQ(parse_verdicts("1, 0, 1", 3), std::nullopt);
  EXPECT_EQ(parse_verdicts("]]][[[", 3), std::nullopt);
}

TEST(ExplanationScore, IsTheBalancedAccuracyWithItsInterval) {
  ExplanationScore score;
  for (int i = 0; i < 10; ++i) score.add(true, i < 9);
  for (int i = 0; i < 30; ++i) score.add(false, i < 6);
  EXPECT_DOUBLE_EQ(score.balanced_accuracy(), (0.9 + 0.8) / 2);
  // Wilson: 9 of 10 is in [0.5958, 0.9821], 24 of 30 in [0.6269, 0.9049].
  EXPECT_NEAR(score.interval().low, 0.85 - std::hypot(0.9 - 0.5958, 0.8 - 0.6269) / 2, 1e-4);
  EXPECT_NEAR(score.interval().high, 0.85 + std::hypot(0.9821 - 0.9, 0.9049 - 0.8) / 2, 1e-4);
  EXPECT_TRUE(ExplanationScore().to_json().at("balanced_accuracy").is_null());
}

TEST(Explain, ScoresAnswersAgainstTextsThatWereNotShown) {
  std::vector<std::string> shown, judged;
  const auto ask = [&](const ChatQuestion& question) -> std::string {
    const std::string& text = question.messages.at(1).content;
    if (question.messages.at(0).content.find("Answer with one line") != std::string::npos) {
      shown.push_back(text);
      return "Explanation: ships";
    }
    EXPECT_TRUE(text.starts_with("Explanation: ships\n"));
    judged.push_back(text);
    return true_verdicts(question, false);
  };
  ExplanationPlan plan;
  plan.n_scored = 7;
  const Explanation found = explain_latent(texts_about_ships(), plan, ask);
  EXPECT_EQ(found.text, "ships");
  EXPECT_EQ(found.problem, "");
  EXPECT_EQ(found.detection.n_true, 7);
  EXPECT_EQ(found.detection.n_false, 7);
  EXPECT_EQ(found.fuzzing.n_true, 7);
  EXPECT_EQ(found.fuzzing.n_false, 7);
  EXPECT_DOUBLE_EQ(found.detection.balanced_accuracy(), 1);
  EXPECT_DOUBLE_EQ(found.fuzzing.balanced_accuracy(), 1);
  ASSERT_EQ(shown.size(), 1U);
  for (int i = 0; i < 20; ++i) {
    const std::string word = "ship" + std::to_string(i) + ">>";
    EXPECT_EQ(shown[0].find(word) != std::string::npos, i % 2 == 0) << word;
    if (i % 2 != 0) continue;
    for (const std::string& text : judged) {
      EXPECT_EQ(text.find("ship" + std::to_string(i) + " "), std::string::npos) << word;
    }
  }
}

TEST(Explain, AWrongJudgeScoresZeroAndASilentOneIsCounted) {
  const auto inverted = [](const ChatQuestion& question) -> std::string {
    if (question.max_tokens > 64) return "ships";
    return true_verdicts(question, true);
  };
  const Explanation wrong = explain_latent(texts_about_ships(), {}, inverted);
  EXPECT_DOUBLE_EQ(wrong.detection.balanced_accuracy(), 0);
  EXPECT_DOUBLE_EQ(wrong.fuzzing.balanced_accuracy(), 0);
  const Explanation silent =
      explain_latent(texts_about_ships(), {}, [](const ChatQuestion&) { return "no idea"; });
  EXPECT_EQ(silent.detection.n_unreadable, 20);
  EXPECT_EQ(silent.fuzzing.n_unreadable, 20);
  EXPECT_FALSE(silent.detection.is_defined());
}

TEST(Explain, SaysWhyThereIsNoExplanationOrNoScore) {
  const Ask ask = [](const ChatQuestion&) { return "ships"; };
  LatentTexts texts;
  EXPECT_EQ(explain_latent(texts, {}, ask).problem, "no text activates it");
  texts.activating.push_back(example("ship", 1));
  EXPECT_EQ(explain_latent(texts, {}, ask).problem, "too few texts to score it on");
  EXPECT_EQ(explain_latent(texts, {}, [](const ChatQuestion&) { return ""; }).problem,
            "the answer holds no explanation");
}

TEST(ChatClient, RefusesWhatIsNoUrl) {
  for (const char* url : {"", "127.0.0.1:80", "ftp://host/v1", "http://", "http://user:pw@host/v1",
                          "http://host/v1?key=1", "http://ho st/v1"}) {
    EXPECT_THROW(ChatClient({.url = url}), ConfigError) << url;
  }
}

TEST(ChatClient, AChatCompletionIsReadStrictly) {
  EXPECT_EQ(parse_chat_completion(R"({"choices":[{"message":{"content":"a"}}]})", "x"), "a");
  for (const char* body :
       {"", "[]", "{}", R"({"choices":[]})", R"({"choices":[{"message":{"content":null}}]})",
        R"({"choices":{"message":1}})", R"({"choices":[{"message":"a"}]})", "<html>"}) {
    EXPECT_THROW(parse_chat_completion(body, "x"), DataError) << body;
  }
}

TEST(ChatClient, TheBodyIsTheSameForTheSameQuestionAndHoldsNoKey) {
  const ChatEndpoint endpoint{.url = "http://a/v1", .model = "m", .key = "secret"};
  const std::string body = chat_request_body(endpoint, {{{"user", "hi \xff"}}, 5, 0.5});
  EXPECT_EQ(body, R"({"model":"m","messages":[{"role":"user","content":"hi \ufffd"}],)"
                  R"("max_tokens":5,"temperature":0.5,"stream":false})");
}

}  // namespace
}  // namespace thresher::features
