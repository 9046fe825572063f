#include "features/probe_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/visible_text.h"
#include "evaluation/page.h"
#include "evaluation/text_table.h"

namespace thresher::features {
namespace {

constexpr std::size_t kBars = 30;
using Outcome = Verdict::Outcome;

Json interval_json(const Interval& interval) {
  return Json::array({Json(interval.low), Json(interval.high)});
}

std::string number(double value, int digits = 3) {
  return std::isnan(value) ? "-" : fmt::format("{:.{}f}", value, digits);
}

std::string with_interval(double value, const Interval& interval, int digits = 3) {
  if (std::isnan(value)) return "-";
  return fmt::format("{} [{}, {}]", number(value, digits), number(interval.low, digits),
                     number(interval.high, digits));
}

std::string p_value(double p) { return p < 1e-4 ? fmt::format("{:.0e}", p) : number(p, 4); }

/// What a probe uses, shown: latent numbers, or the token.
std::string features_text(const ProbeFigure& probe, const corpus::Tokenizer& tokenizer) {
  if (probe.features.empty()) return "";
  if (probe.family == "tokens") {
    const auto id = static_cast<std::int32_t>(probe.features[0]);
    return fmt::format("\"{}\"", visible_text(tokenizer.decode({&id, 1})));
  }
  const std::size_t shown = std::min<std::size_t>(probe.features.size(), 5);
  const std::span<const std::int64_t> first(probe.features.data(), shown);
  return fmt::format("{}{}", fmt::join(first, " "), shown < probe.features.size() ? " ..." : "");
}

Json tests_json(const std::vector<TestFigure>& tests, const ProbeContext& context) {
  Json out = Json::object();
  for (std::size_t i = 0; i < tests.size(); ++i) {
    out[context.sets[i + 1]->name] =
        Json::object({{"auroc", tests[i].auroc},
                      {"auroc_interval", interval_json(tests[i].auroc_interval)},
                      {"cohens_d", tests[i].d},
                      {"cohens_d_interval", interval_json(tests[i].d_interval)}});
  }
  return out;
}

Json chance_json(const ChanceFigure& chance, const ProbeContext& context) {
  Json out = Json::object({{"n", chance.n}});
  Json tests = Json::object();
  for (std::size_t i = 0; i < chance.p95.size(); ++i) {
    tests[context.sets[i + 1]->name] =
        Json::object({{"mean_auroc", chance.mean[i]}, {"p95_auroc", chance.p95[i]}});
  }
  out["tests"] = tests;
  return out;
}

const char* outcome_name(Outcome outcome) {
  return outcome == Outcome::kAbove ? "above" : outcome == Outcome::kBelow ? "below" : "no better";
}

Json verdicts_json(const std::vector<std::vector<Verdict>>& verdicts, const ProbeContext& context) {
  Json out = Json::object();
  for (std::size_t i = 0; i < verdicts.size(); ++i) {
    Json list = Json::array();
    for (const Verdict& one : verdicts[i]) {
      list.push_back(Json::object(
          {{"baseline", one.baseline},
           {"auroc", one.auroc},
           {"auroc_interval", one.is_chance ? Json() : interval_json(one.interval)},
           {"difference_interval", one.is_chance ? Json() : interval_json(one.difference)},
           {"outcome", outcome_name(one.outcome)}}));
    }
    out[context.sets[i + 1]->name] = list;
  }
  return out;
}

Json task_json(const TaskReport& task, const ProbeContext& context) {
  Json counts = Json::object();
  for (std::size_t i = 0; i < task.counts.size(); ++i) {
    counts[context.sets[i]->name] =
        Json::object({{"positive", task.counts[i].first}, {"negative", task.counts[i].second}});
  }
  Json latents = Json::array();
  for (const LatentFigure& one : task.latents) {
    latents.push_back(Json::object({{"latent", one.latent},
                                    {"training_auroc", one.training_auroc},
                                    {"training_cohens_d", one.training_d},
                                    {"p", one.p},
                                    {"p_benjamini_hochberg", one.adjusted_p},
                                    {"p_holm", one.family_p},
                                    {"tests", tests_json(one.tests, context)}}));
  }
  Json probes = Json::array();
  for (const ProbeFigure& one : task.probes) {
    probes.push_back(Json::object({{"family", one.family},
                                   {"method", one.method},
                                   {"features", Json::array_of(one.features)},
                                   {"training_auroc", one.training_auroc},
                                   {"tests", tests_json(one.tests, context)}}));
  }
  return Json::object({{"name", task.name()},
                       {"positive", task.positive},
                       {"negative", task.negative.empty() ? Json() : Json(task.negative)},
                       {"is_control", task.is_control},
                       {"documents", counts},
                       {"latents", latents},
                       {"discoveries_benjamini_hochberg", task.n_discoveries},
                       {"discoveries_holm", task.n_family},
                       {"probes", probes},
                       {"random_directions", chance_json(task.random, context)},
                       {"shuffled_labels", chance_json(task.shuffled, context)},
                       {"best_latent_against", verdicts_json(task.best_latent, context)},
                       {"sparse_probe_against", verdicts_json(task.sparse_probe, context)},
                       {"sentences", Json::array_of(verdict_sentences(task, context))}});
}

std::string sentence(const std::string& subject, const TestFigure& mine,
                     const std::vector<Verdict>& verdicts) {
  std::vector<std::string> lists[3];
  for (const Verdict& one : verdicts) {
    const std::string figure =
        one.is_chance ? number(one.auroc) : with_interval(one.auroc, one.interval);
    lists[static_cast<std::size_t>(one.outcome)].push_back(
        fmt::format("{} {}", one.baseline, figure));
  }
  std::string out =
      fmt::format("{}, AUROC {}, ", subject, with_interval(mine.auroc, mine.auroc_interval));
  const char* words[] = {"is better than", "is NO BETTER than", "is WORSE than"};
  const char* between = "";
  for (const Outcome outcome : {Outcome::kAbove, Outcome::kNoBetter, Outcome::kBelow}) {
    const auto place = static_cast<std::size_t>(outcome);
    if (lists[place].empty()) continue;
    out += fmt::format("{}{}: {}", between, words[place], fmt::join(lists[place], "; "));
    between = ". It ";
  }
  return out + ".";
}

const ProbeFigure* widest_sparse(const TaskReport& task) {
  const ProbeFigure* widest = nullptr;
  for (const ProbeFigure& one : task.probes) {
    if (one.family == "sae" && one.method.starts_with("sparse")) widest = &one;
  }
  return widest;
}

/// Tables of one task on one test set.
evaluation::PageTable probes_table(const TaskReport& task, std::size_t test,
                                   const corpus::Tokenizer& tokenizer) {
  evaluation::PageTable table;
  table.columns = {{"probe", {}, false},
                   {"uses", {}, false},
                   {"training AUROC"},
                   {"AUROC", "95 %"},
                   {"Cohen's d", "95 %"}};
  for (const ProbeFigure& one : task.probes) {
    const TestFigure& figure = one.tests[test];
    table.rows.push_back({one.family == "sae" ? evaluation::PageRow::Kind::kNormal
                                              : evaluation::PageRow::Kind::kBaseline,
                          {{one.name()},
                           {features_text(one, tokenizer)},
                           {number(one.training_auroc)},
                           {with_interval(figure.auroc, figure.auroc_interval)},
                           {with_interval(figure.d, figure.d_interval, 2)}}});
  }
  const auto add_chance = [&](const std::string& name, const ChanceFigure& chance) {
    table.rows.push_back({evaluation::PageRow::Kind::kBaseline,
                          {{name},
                           {""},
                           {"-"},
                           {fmt::format("mean {}, 95th percentile {}", number(chance.mean[test]),
                                        number(chance.p95[test]))},
                           {"-"}}});
  };
  add_chance(fmt::format("{} random directions", task.random.n), task.random);
  add_chance(fmt::format("best latent, labels shuffled {} times", task.shuffled.n), task.shuffled);
  return table;
}

evaluation::PageTable latents_table(const TaskReport& task, const ProbeContext& context) {
  evaluation::PageTable table;
  table.columns = {{"latent"}, {"training AUROC"}, {"training d"}, {"p", "BH"}, {"p", "Holm"}};
  for (std::size_t i = 1; i < context.sets.size(); ++i) {
    table.columns.push_back({"AUROC", context.sets[i]->name});
    table.columns.push_back({"d", context.sets[i]->name});
  }
  for (const LatentFigure& one : task.latents) {
    evaluation::PageRow row;
    row.cells = {{fmt::format("{}", one.latent)},
                 {number(one.training_auroc)},
                 {number(one.training_d, 2)},
                 {p_value(one.adjusted_p)},
                 {p_value(one.family_p)}};
    for (const TestFigure& figure : one.tests) {
      row.cells.push_back({with_interval(figure.auroc, figure.auroc_interval)});
      row.cells.push_back({with_interval(figure.d, figure.d_interval, 2)});
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::string as_text(const evaluation::PageTable& table, std::size_t n_left) {
  std::vector<std::vector<std::string>> lines(1);
  for (const evaluation::PageColumn& column : table.columns) {
    lines[0].push_back(column.unit.empty() ? column.label
                                           : fmt::format("{} ({})", column.label, column.unit));
  }
  for (const evaluation::PageRow& row : table.rows) {
    lines.emplace_back();
    for (const evaluation::PageCell& cell : row.cells) lines.back().push_back(cell.text);
  }
  return evaluation::text_table(std::move(lines), n_left);
}

std::string counts_text(const TaskReport& task, const ProbeContext& context) {
  std::string out;
  for (std::size_t i = 0; i < task.counts.size(); ++i) {
    out += fmt::format("{}{}: {} of {}, {} others", i == 0 ? "" : "; ", context.sets[i]->name,
                       task.counts[i].first, task.positive, task.counts[i].second);
  }
  return out;
}

std::string discoveries_text(const TaskReport& task) {
  return fmt::format(
      "{} latents fire more on {} with a false discovery rate of 5 % over all latents, {} with no "
      "false one allowed (Holm); on training documents.",
      task.n_discoveries, task.positive, task.n_family);
}

/// Both groups' scores on a test set, in bars of equal width.
evaluation::HistogramChart histogram(const TaskReport& task, const ProbeFigure& probe,
                                     std::size_t test, const corpus::Tokenizer& tokenizer) {
  evaluation::HistogramChart chart;
  const std::string uses = features_text(probe, tokenizer);
  chart.title = probe.name() + (uses.empty() ? "" : ": " + uses);
  chart.x_label = "score";
  chart.y_label = "documents";
  chart.reference_name = task.negative.empty() ? "the others" : task.negative;
  const std::vector<double>& scores = probe.scores[test];
  const auto [low, high] = std::minmax_element(scores.begin(), scores.end());
  const double width = std::max(*high - *low, 1e-12) / static_cast<double>(kBars);
  for (std::size_t i = 0; i <= kBars; ++i) {
    chart.edges.push_back(*low + width * static_cast<double>(i));
  }
  chart.counts.assign(kBars, 0);
  chart.reference.assign(kBars, 0);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const auto bar = std::min(static_cast<std::size_t>((scores[i] - *low) / width), kBars - 1);
    ++(task.test_labels[test][i] != 0 ? chart.counts : chart.reference)[bar];
  }
  return chart;
}

}  // namespace

std::vector<std::string> verdict_sentences(const TaskReport& task, const ProbeContext& context) {
  std::vector<std::string> out;
  for (std::size_t test = 0; test < task.best_latent.size(); ++test) {
    const std::string where = fmt::format("{} on {}", task.name(), context.sets[test + 1]->name);
    if (task.best_latent[test].empty()) {
      out.push_back(where + ": one of the two groups is not there.");
      continue;
    }
    const ProbeFigure& best = task.probe("sae", "best");
    out.push_back(sentence(fmt::format("{}: latent {}", where, best.features[0]), best.tests[test],
                           task.best_latent[test]));
    if (const ProbeFigure* widest = widest_sparse(task)) {
      out.push_back(sentence(fmt::format("{}: {} latents", where, widest->features.size()),
                             widest->tests[test], task.sparse_probe[test]));
    }
    for (const ProbeFigure& one : task.probes) {
      if (one.family != "direction") continue;
      const double p95 = task.random.p95[test];
      out.push_back(fmt::format(
          "{}: the direction {}, AUROC {}, is {} the 95th percentile of {} random directions, {}.",
          where, one.method, with_interval(one.tests[test].auroc, one.tests[test].auroc_interval),
          one.tests[test].auroc > p95 ? "above" : "NO BETTER than", task.random.n, number(p95)));
    }
  }
  return out;
}

Json probe_json(const std::vector<TaskReport>& tasks, const ProbeContext& context) {
  Json sets = Json::array();
  for (const ProbeSet* set : context.sets) {
    std::vector<std::string> keys;
    for (const std::size_t document : set->pooled.documents) {
      keys.push_back(set->texts[document].key);
    }
    std::sort(keys.begin(), keys.end());
    keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    std::int64_t n_tokens = 0;
    for (const std::int64_t n : set->pooled.n_tokens) n_tokens += n;
    sets.push_back(
        Json::object({{"name", set->name},
                      {"documents", static_cast<std::int64_t>(set->pooled.documents.size())},
                      {"keys", static_cast<std::int64_t>(keys.size())},
                      {"tokens", n_tokens}}));
  }
  Json list = Json::array();
  for (const TaskReport& task : tasks) list.push_back(task_json(task, context));
  Json notes = Json::object();
  for (const auto& [name, value] : context.notes) notes[name] = value;
  return Json::object({{"subject", context.subject},
                       {"sae", context.sae_name},
                       {"hook_point", context.hook_point},
                       {"pooling", context.pooling},
                       {"sets", sets},
                       {"settings", notes},
                       {"tasks", list}});
}

std::string probe_text(const std::vector<TaskReport>& tasks, const ProbeContext& context,
                       const corpus::Tokenizer& tokenizer) {
  std::string out = fmt::format("{} at {}; {}\n", visible_text(context.sae_name),
                                context.hook_point, context.pooling);
  for (const TaskReport& task : tasks) {
    out += fmt::format(
        "\n{}\n\n{}\n{}\n\n{}", visible_text(task.name()), visible_text(counts_text(task, context)),
        visible_text(discoveries_text(task)), as_text(latents_table(task, context), 0));
    for (std::size_t test = 0; test + 1 < context.sets.size(); ++test) {
      out += fmt::format("\non {}\n\n{}", visible_text(context.sets[test + 1]->name),
                         as_text(probes_table(task, test, tokenizer), 2));
    }
    out += "\n";
    for (const std::string& line : verdict_sentences(task, context)) {
      out += visible_text(line) + "\n";
    }
  }
  return out;
}

std::string probe_page(const std::vector<TaskReport>& tasks, const ProbeContext& context,
                       const corpus::Tokenizer& tokenizer) {
  evaluation::Page page(
      fmt::format("Probes of {}", context.sae_name), "",
      fmt::format("{} at {}; {}", context.subject, context.hook_point, context.pooling));
  page.add_text(
      "Everything is chosen and fitted on the training documents and tested on others. AUROC 0.5 "
      "is "
      "chance. Intervals are 95 %, from resampling keys (documents of one key come and go "
      "together). "
      "Histograms: bars are the group that is asked for, the outline is what it is told from.");
  for (const TaskReport& task : tasks) {
    page.add_heading(task.name());
    page.add_text(counts_text(task, context));
    page.add_text(discoveries_text(task));
    for (const std::string& line : verdict_sentences(task, context)) {
      line.find("NO BETTER") != std::string::npos || line.find("WORSE") != std::string::npos
          ? page.add_warning(line)
          : page.add_text(line);
    }
    page.add_table(latents_table(task, context));
    for (std::size_t test = 0; test + 1 < context.sets.size(); ++test) {
      page.add_text("On " + context.sets[test + 1]->name + ":");
      page.add_table(probes_table(task, test, tokenizer));
      std::vector<evaluation::HistogramChart> charts;
      for (const ProbeFigure& one : task.probes) {
        const bool is_shown = one.method == "best" || one.family == "direction" ||
                              (one.family == "raw" && one.method == "difference of means");
        if (is_shown && !one.scores[test].empty()) {
          charts.push_back(histogram(task, one, test, tokenizer));
        }
      }
      page.add_charts(charts);
    }
  }
  std::vector<std::pair<std::string, std::string>> notes = context.notes;
  notes.emplace_back("command", context.command);
  page.add_heading("Made with");
  page.add_pairs(notes);
  return page.html();
}

}  // namespace thresher::features
