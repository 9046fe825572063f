#include "features/steering.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/files.h"
#include "tests/core/scratch_folder.h"
#include "tests/evaluation/tiny_host.h"
#include "tests/host_model/tiny_llama.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;
using Ids = std::vector<std::int32_t>;

const HookPoint kPoint = HookPoint::parse("blocks.1.hook_resid_post");

/// Letters of a tiny Llama with 128 tokens: ids are bytes.
Subject llama_subject() {
  Subject subject;
  subject.tokenizer = std::make_unique<testing::PlainTokenizer>();
  subject.model = testing::load(testing::tiny_llama({.n_vocabulary = 128}));
  return subject;
}

const std::vector<Ids> kPrompts = {{'h', 'e', 'y', ' ', 'd'}, {'i', ' ', 's'}, {'o', 'h'}};
const std::vector<Attribute> kAttributes = {{"a", {"x", "yz"}, {"q"}},
                                            {"b", {"mnop"}, {"z", "xx", "r"}}};

/// log P(text | prompt) by one pass over both, without restart or cache; `one` may be null.
double log_probability(const Subject& subject, const Ids& prompt, const std::string& text,
                       const Intervention* one) {
  Ids ids = prompt;
  ids.insert(ids.end(), text.begin(), text.end());
  host_model::PassRows rows = host_model::align_contexts({ids});
  rows.prompt_tokens.fill_(static_cast<std::int64_t>(prompt.size()));
  host_model::ForwardRequest request;
  request.want_final = true;
  std::map<HookPoint, host_model::RowHook> hooks;
  std::optional<Interventions> interventions;
  if (one != nullptr) {
    interventions.emplace(std::vector<Intervention>{*one}, subject.rules, *subject.tokenizer,
                          subject.model->info());
    hooks = interventions->hooks();
  }
  request.hooks = host_model::bind_hooks(hooks, rows);
  const at::Tensor logs = at::log_softmax(
      subject.model->unembed(subject.model->forward(rows.batch, request)).to(at::kDouble), 1);
  double sum = 0;
  for (std::size_t t = prompt.size(); t < ids.size(); ++t) {
    sum += logs[static_cast<std::int64_t>(t) - 1][static_cast<std::int64_t>(ids[t])].item<double>();
  }
  return sum;
}

double odds_by_hand(const Subject& subject, const Ids& prompt, const Attribute& attribute,
                    const Intervention* one) {
  const auto total = [&](const std::vector<std::string>& texts) {
    double sum = 0;
    for (const std::string& text : texts)
      sum += std::exp(log_probability(subject, prompt, text, one));
    return std::log(sum);
  };
  return total(attribute.positive) - total(attribute.negative);
}

TEST(ContinuationScorer, EqualsPassesOverWholeTexts) {
  const Subject subject = llama_subject();
  ContinuationScorer scorer(subject, kPrompts, kAttributes);
  for (const char* point : {"hook_embed", "blocks.0.hook_resid_pre", "blocks.1.hook_resid_post",
                            "blocks.2.hook_mlp_out"}) {
    for (const char* positions : {"all", "end", "last"}) {
      SteeredSettings settings;
      settings.base.point = HookPoint::parse(point);
      settings.base.positions = PositionRange::parse(positions);
      settings.directions = testing::random_tensor({2, 32}, 1, 3);
      settings.values = {1.5, -2};
      const SettingScores scores = scorer.score(settings);
      for (std::int64_t s = 0; s < 2; ++s) {
        Intervention one = settings.base;
        one.direction = settings.directions[s];
        one.values = {settings.values[static_cast<std::size_t>(s)]};
        for (std::int64_t p = 0; p < 3; ++p) {
          for (std::int64_t a = 0; a < 2; ++a) {
            EXPECT_NEAR(scores.log_odds[s][p][a].item<double>(),
                        odds_by_hand(subject, kPrompts[static_cast<std::size_t>(p)],
                                     kAttributes[static_cast<std::size_t>(a)], &one),
                        1e-4)
                << point << " " << positions << " " << s << " " << p << " " << a;
          }
          EXPECT_GT(scores.kl[s][p].item<double>(), 1e-4);
        }
      }
    }
  }
  for (std::int64_t p = 0; p < 3; ++p) {
    EXPECT_NEAR(
        scorer.plain_log_odds()[p][0].item<double>(),
        odds_by_hand(subject, kPrompts[static_cast<std::size_t>(p)], kAttributes[0], nullptr),
        1e-4);
  }
  EXPECT_NEAR(scorer.divergence(scorer).abs().max().item<double>(), 0, 1e-9);
}

TEST(SteeringBench, LeavesAModelThatIsNotMovedAsItIs) {
  const Subject subject = llama_subject();
  SteeringTask task{kPrompts, kAttributes, {}, {}};
  task.generation.max_new_tokens = 6;
  SteeringBench bench(subject, task);
  const SteeringRow plain = bench.plain();
  SteeredSettings settings;
  settings.base.point = kPoint;
  settings.directions = at::ones({2, 32});
  settings.values = {0, 4};
  const std::vector<SteeringRow> rows = bench.steered(settings);
  EXPECT_EQ(rows[0].texts, plain.texts);
  EXPECT_NEAR(rows[0].log_odds[0], plain.log_odds[0], 1e-6);
  EXPECT_NEAR(rows[0].perplexity, plain.perplexity, 1e-4);
  EXPECT_NEAR(rows[0].kl, 0, 1e-6);
  EXPECT_NE(rows[1].texts, plain.texts);
  EXPECT_GT(rows[1].kl, 1e-3);
  // Perplexity by hand: the plain model on what it made.
  double sum = 0;
  for (std::size_t p = 0; p < 3; ++p)
    sum -= log_probability(subject, kPrompts[p], plain.texts[p], nullptr);
  EXPECT_NEAR(plain.perplexity, std::exp(sum / 18), 1e-3 * plain.perplexity);
  // Tokens before a prompt are the same as a longer prompt.
  std::vector<Ids> longer = kPrompts;
  for (Ids& ids : longer) ids.insert(ids.begin(), {'w', ' '});
  SteeringTask behind{longer, kAttributes, {}, task.generation};
  EXPECT_NEAR(bench.prompting({'w', ' '}).log_odds[1],
              SteeringBench(subject, behind).plain().log_odds[1], 1e-5);
}

TEST(WordList, CountsEachListedWordOnceAText) {
  const testing::ScratchFolder folder;
  write_file_atomically(folder.path() / "words.txt", "# la\nEst été # nous\ndans\n");
  const WordList list = WordList::read(folder.path() / "words.txt");
  EXPECT_DOUBLE_EQ(list.share("L'été EST long, est-ce la fin?"),
                   2.0 / 8);  // of 8 words 2 are listed
  EXPECT_DOUBLE_EQ(list.share("dans dans dans dans"), 1.0 / 4);
  EXPECT_DOUBLE_EQ(list.share("dansant nous la"), 0);
  EXPECT_DOUBLE_EQ(list.share(" 12, .\n"), 0);
  write_file_atomically(folder.path() / "none.txt", "# est\n 1\n");
  EXPECT_THROW(WordList::read(folder.path() / "none.txt"), ConfigError);
}

TEST(SteeringBench, SuccessIsTheShareOfListedWordsWhereThereIsAList) {
  const testing::ScratchFolder folder;
  std::string letters;  // a list in which one-letter words of half of the alphabet stand
  for (char c = 'a'; c <= 'm'; ++c) letters += std::string(1, c) + " ";
  write_file_atomically(folder.path() / "words.txt", letters);
  const Subject subject = llama_subject();
  SteeringTask task{kPrompts, {}, WordList::read(folder.path() / "words.txt"), {}};
  task.generation.max_new_tokens = 40;
  task.generation.temperature = 1;
  SteeringBench bench(subject, task);
  const SteeringRow plain = bench.plain();
  SteeredSettings settings;
  settings.base.point = kPoint;
  settings.directions = testing::random_tensor({19, 32}, 1, 3);  // more than run together
  settings.values.assign(19, 3);
  const std::vector<SteeringRow> rows = bench.steered(settings);
  const std::vector<double> effects = bench.effects_on_success(settings);
  double largest = 0;
  for (std::size_t i = 0; i < 19; ++i) {
    double share = 0;
    for (const std::string& text : rows[i].texts) share += task.words->share(text) / 3;
    EXPECT_NEAR(rows[i].share, share, 1e-12);
    EXPECT_EQ(rows[i].success(), rows[i].share);
    EXPECT_NEAR(effects[i], rows[i].share - plain.share, 1e-12) << i;
    largest = std::max(largest, std::abs(effects[i]));
  }
  EXPECT_GT(largest, 0.01);
}

TEST(BestRow, IsTheMostSuccessfulOfFluentRows) {
  std::vector<SteeringRow> rows(4);
  const double log_odds[] = {1, 5, 3, 9};
  const double perplexity[] = {4, 21, 10, std::numeric_limits<double>::quiet_NaN()};
  for (std::size_t i = 0; i < 4; ++i) {
    rows[i].log_odds = {log_odds[i]};
    rows[i].perplexity = perplexity[i];
  }
  EXPECT_EQ(best_row(rows, 20), 2);
  EXPECT_EQ(best_row(rows, 30), 1);
  EXPECT_EQ(best_row(rows, 3), -1);
  for (std::size_t i = 0; i < 4; ++i) rows[i].share = 0.1 * static_cast<double>(4 - i);
  EXPECT_EQ(best_row(rows, 20), 0);
}

TEST(Controls, HaveTheNormOfTheDirection) {
  const at::Tensor direction = at::tensor({3.0F, 4.0F});
  const at::Tensor matched =
      norm_matched(at::tensor({1.0F, 0.0F, 0.0F, -2.0F}).view({2, 2}), direction);
  EXPECT_TRUE(at::allclose(matched, at::tensor({5.0F, 0.0F, 0.0F, -5.0F}).view({2, 2})));
  EXPECT_TRUE(
      at::allclose(projected_out(direction, at::tensor({0.0F, 7.0F})), at::tensor({3.0F, 0.0F})));
}

}  // namespace
}  // namespace thresher::features
