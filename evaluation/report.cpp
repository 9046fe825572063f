#include "evaluation/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/progress.h"
#include "evaluation/curve_charts.h"
#include "evaluation/metric_columns.h"
#include "evaluation/page.h"

namespace thresher::evaluation {
namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

/// A member of nested objects, or nullptr where any step is missing.
const Json* member(const Json& json, std::initializer_list<std::string_view> path) {
  const Json* at = &json;
  for (const std::string_view key : path) {
    at = at->is_object() ? at->find(key) : nullptr;
    if (at == nullptr) return nullptr;
  }
  return at;
}

std::string text_of(const Json* value) { return value == nullptr ? "–" : plain_value(*value); }

void add_pair(Pairs& pairs, const std::string& name, const Json* value) {
  if (value == nullptr || value->is_null()) return;
  if (const std::string text = plain_value(*value); !text.empty()) pairs.emplace_back(name, text);
}

std::string distinct(const RunRecord& run, const std::string& field) {
  std::vector<std::string> values;
  for (const SaeRecord& sae : run.saes) {
    const std::string value = text_of(member(sae.config, {field}));
    if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
  }
  std::string out;
  for (const std::string& value : values) out += (out.empty() ? "" : ", ") + value;
  return out;
}

std::string subtitle_of(const RunRecord& run) {
  std::string out = fmt::format("{} {} on {}", run.saes.size(),
                                run.saes.size() == 1 ? "SAE" : "SAEs", distinct(run, "hook_point"));
  if (const Json* weights = member(run.config, {"host_model", "weights"})) {
    const std::string path = plain_value(*weights);
    if (!path.empty()) out += " of " + path.substr(path.find_last_of('/') + 1);
  }
  double tokens = 0;
  for (const SaeRecord& sae : run.saes) tokens = std::max(tokens, sae.curves.tokens);
  if (tokens > 0) {
    const Json number(tokens);
    out += fmt::format(", {} training tokens", figure_text(&number, 0));
  }
  return out;
}

std::vector<ChartedSae> charted(const RunRecord& run) {
  std::vector<ChartedSae> out;
  for (const SaeRecord& sae : run.saes) out.push_back({sae.name, out.size(), &sae});
  return out;
}

PageRow metrics_row(const std::string& label, const Json& figures, PageRow::Kind kind) {
  PageRow row{kind, {{label}}};
  for (const MetricColumn& column : metric_columns()) {
    const Json* value = figures.find(column.name);
    row.cells.push_back({figure_text(value, column.decimals), why_missing(figures, column.name)});
  }
  return row;
}

std::string baseline_label(const std::string& name, const Json& figures) {
  const Json* components = figures.find("n_components");
  return components == nullptr ? name
                               : fmt::format("{}, {} components", name, plain_value(*components));
}

PageTable metrics_table(const RunRecord& run) {
  PageTable table;
  table.columns.push_back({"SAE", "", false});
  for (const MetricColumn& column : metric_columns()) {
    table.columns.push_back({column.label, column.unit});
  }
  for (const SaeRecord& sae : run.saes) {
    if (sae.evaluation.is_null()) continue;
    table.rows.push_back(metrics_row(sae.name, sae.evaluation, PageRow::Kind::kNormal));
    const Json* baselines = sae.evaluation.find("baselines");
    if (baselines == nullptr || !baselines->is_object()) continue;
    for (const auto& [name, figures] : baselines->as_object()) {
      if (!figures.is_object()) continue;
      table.rows.push_back(
          metrics_row(baseline_label(name, figures), figures, PageRow::Kind::kBaseline));
    }
  }
  return table;
}

void add_metrics(Page& page, const RunRecord& run) {
  page.add_heading("Metrics on held-out data");
  std::string missing;
  for (const SaeRecord& sae : run.saes) {
    if (sae.evaluation.is_null()) missing += (missing.empty() ? "" : ", ") + sae.name;
  }
  if (!run.is_evaluated()) {
    page.add_warning("This run has not been evaluated: `thresher eval RUN` writes its metrics.");
    return;
  }
  if (!missing.empty()) page.add_warning("Not evaluated: " + missing + ".");
  page.add_table(metrics_table(run));
  const SaeRecord& first =
      *std::find_if(run.saes.begin(), run.saes.end(),
                    [](const SaeRecord& sae) { return !sae.evaluation.is_null(); });
  std::string note =
      fmt::format("{} held-out positions, {} more left out by the rules of the cache.",
                  figure_text(first.evaluation.find("n_tokens"), 0),
                  figure_text(first.evaluation.find("n_dropped"), 0));
  if (const std::string reason = why_missing(first.evaluation, "ce_spliced"); !reason.empty()) {
    note += " No cross-entropy: " + reason + ".";
  } else {
    note += fmt::format(
        " Cross-entropy of the untouched model {} nats a token, with activations replaced by their "
        "mean {}, by zero {}.",
        figure_text(first.evaluation.find("ce_clean"), 3),
        figure_text(first.evaluation.find("ce_mean_ablated"), 3),
        figure_text(first.evaluation.find("ce_zero_ablated"), 3));
  }
  note +=
      " fvu: part of the variance left unexplained. ce recovered: 1 is as good as the untouched "
      "activation, 0 as bad as the ablated one. The baselines under each SAE are measured by the "
      "same code.";
  page.add_text(note);
}

void add_curves(Page& page, const RunRecord& run) {
  const std::vector<ChartedSae> saes = charted(run);
  const std::vector<LineChart> training = training_charts(saes);
  page.add_heading("Training");
  if (training.empty()) {
    page.add_text("metrics.jsonl holds no curve yet.");
  } else {
    std::vector<std::pair<std::string, std::size_t>> names;
    for (const ChartedSae& sae : saes) names.emplace_back(sae.label, sae.index);
    page.add_legend(names);
    page.add_charts(training);
    std::string note;
    if (const std::int64_t n = values_per_point(saes); n > 1) {
      note = fmt::format("Each point is the mean of {} logged steps. ", n);
    }
    if (const std::string constant = constant_figures(saes); !constant.empty()) {
      note += "Did not change: " + constant + ".";
    }
    if (!note.empty()) page.add_text(note);
  }
  if (const auto held_out = held_out_charts(saes); !held_out.empty()) {
    page.add_heading("Checkpoints on held-out text");
    page.add_charts(held_out);
  }
  if (const auto densities = density_charts(saes); !densities.empty()) {
    page.add_heading("How often latents fire");
    page.add_charts(densities);
    const bool has_outline = std::any_of(densities.begin(), densities.end(), [](const auto& chart) {
      return !chart.reference.empty();
    });
    if (has_outline) page.add_text("The dashed outline is the SAE before its first step.");
  }
}

void add_speed(Page& page, const RunRecord& run) {
  if (run.speed.empty()) return;
  page.add_heading("Speed");
  LineChart chart;
  chart.title = "tokens/s";
  chart.x = {"training tokens"};
  chart.y = {"of training, over about ten seconds each"};
  chart.series.push_back({"tokens/s", 0, {}});
  // A run that was continued has told some tokens twice; the later telling is the one that counts.
  for (const auto& point : run.speed) {
    auto& points = chart.series[0].points;
    while (!points.empty() && points.back().first >= point.first) points.pop_back();
    points.push_back(point);
  }
  page.add_charts(std::vector{chart});
}

Pairs config_pairs(const Json& section) {
  Pairs pairs;
  for (const auto& [name, value] : flatten(section)) {
    const std::string text = plain_value(value);
    pairs.emplace_back(name, text.empty() ? "\"\"" : text);
  }
  return pairs;
}

void add_config(Page& page, const RunRecord& run) {
  page.add_heading("Configuration");
  constexpr std::size_t kMostOpenSaes = 4;
  std::vector<Page::Fold> folds;
  for (const auto& [section, content] : run.config.as_object()) {
    if (section == "sae" && content.is_array()) {
      for (const Json& sae : content.as_array()) {
        folds.push_back({"sae " + text_of(member(sae, {"name"})), config_pairs(sae),
                         content.as_array().size() <= kMostOpenSaes});
      }
    } else if (content.is_object()) {
      folds.push_back({section, config_pairs(content)});
    }
  }
  page.add_folds(folds);
}

std::string seconds_text(const Json& value) {
  return value.is_number() ? format_duration(value.as_double()) : "–";
}

/// What stands in the start events of timing.jsonl, one table row a start.
void add_starts(Page& page, const RunRecord& run) {
  PageTable table;
  table.columns = {{"started", "UTC", false},
                   {"host", "", false},
                   {"ranks"},
                   {"threads", "a rank"},
                   {"command", "", false}};
  for (const Json& event : run.events) {
    if (text_of(event.find("event")) != "start") continue;
    table.rows.push_back({PageRow::Kind::kNormal,
                          {{text_of(event.find("time"))},
                           {text_of(event.find("host"))},
                           {text_of(event.find("ranks"))},
                           {text_of(event.find("threads"))},
                           {text_of(event.find("command"))}}});
  }
  if (!table.rows.empty()) page.add_table(table);
}

/// Digests of the files of activations, where a run read those in place of a text.
void add_own_files(Pairs& pairs, const RunRecord& run) {
  constexpr std::size_t kMostShown = 4;
  const Json* files = member(run.identity, {"source", "cache", "corpus", "files"});
  if (files == nullptr || !files->is_array()) return;
  const auto& list = files->as_array();
  for (std::size_t i = 0; i < std::min(list.size(), kMostShown); ++i) {
    add_pair(pairs, "activations, SHA-256", member(list[i], {"sha256"}));
  }
  if (list.size() > kMostShown) {
    pairs.emplace_back("activations", fmt::format("and {} more files", list.size() - kMostShown));
  }
}

void add_provenance(Page& page, const RunRecord& run) {
  page.add_heading("Provenance");
  add_starts(page, run);
  Pairs pairs;
  pairs.emplace_back("run directory", run.path.string());
  for (auto event = run.events.rbegin(); event != run.events.rend(); ++event) {
    const Json* versions = event->find("versions");
    if (versions == nullptr || !versions->is_object()) continue;
    for (const auto& [name, value] : versions->as_object()) {
      pairs.emplace_back(name, plain_value(value));
    }
    add_pair(pairs, "working directory", event->find("working_directory"));
    break;
  }
  for (auto event = run.events.rbegin(); event != run.events.rend(); ++event) {
    const Json* seconds = event->find("stage_seconds");
    if (seconds == nullptr || !seconds->is_object()) continue;
    std::string text;
    for (const auto& [stage, value] : seconds->as_object()) {
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", stage, seconds_text(value));
    }
    pairs.emplace_back("wall-clock", text);
    break;
  }
  const auto add = [&](const std::string& name, std::initializer_list<std::string_view> path) {
    add_pair(pairs, name, member(run.identity, path));
  };
  add("numerics version", {"numerics_version"});
  add("host model, SHA-256 of its weights", {"source", "cache", "host_model", "fingerprint"});
  add("tokenizer, SHA-256", {"source", "cache", "tokenizer"});
  add("text, SHA-256", {"source", "cache", "corpus", "fingerprint"});
  add_own_files(pairs, run);
  add("cache, SHA-256 of its shards", {"source", "shards_sha256"});
  add("cache rows", {"source", "rows"});
  for (const SaeRecord& sae : run.saes) {
    if (sae.evaluation.is_null()) continue;
    add_pair(pairs, "held-out contexts, SHA-256", sae.evaluation.find("contexts_sha256"));
    add_pair(pairs, "held-out rows, SHA-256", sae.evaluation.find("rows_sha256"));
    break;
  }
  page.add_pairs(pairs);
}

}  // namespace

std::string report_page(const RunRecord& run) {
  const Json* state = member(run.status, {"state"});
  Page page(run.name, state == nullptr ? "" : plain_value(*state), subtitle_of(run));
  const Json* message = member(run.status, {"message"});
  if (message != nullptr && message->is_string() && !message->as_string().empty()) {
    page.add_warning(message->as_string());
  }
  add_metrics(page, run);
  add_curves(page, run);
  add_speed(page, run);
  add_config(page, run);
  add_provenance(page, run);
  return page.html();
}

}  // namespace thresher::evaluation
