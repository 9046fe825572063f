#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/visible_text.h"
#include "evaluation/text_table.h"
#include "features/steering_study.h"

namespace thresher::features {
namespace {

constexpr std::size_t kShownBytes = 60;

std::string number(double value, int digits = 2) {
  return std::isfinite(value) ? fmt::format("{:.{}f}", value, digits) : "-";
}

std::vector<std::string> headings(const SteeringRow& row) {
  std::vector<std::string> out = {"setting", "positions", "coefficient"};
  if (!std::isnan(row.share)) out.push_back("share");
  if (!row.log_odds.empty()) out.insert(out.end(), {"log-odds", "effect"});
  out.insert(out.end(), {"KL", "perplexity"});
  return out;
}

/// The figures of a row; effects are against `plain`.
std::vector<std::string> figures(const SteeringRow& row, const SteeringRow& plain) {
  const bool is_edited = !row.point.empty();
  std::vector<std::string> out = {row.name == "steered" ? row.point : row.name, row.positions,
                                  is_edited ? fmt::format("{:g}", row.value) : ""};
  if (!std::isnan(row.share)) out.push_back(number(row.share, 3));
  if (!row.log_odds.empty()) {
    out.push_back(number(row.log_odds[0]));
    out.push_back(number(row.log_odds[0] - plain.log_odds[0]));
  }
  out.push_back(number(row.kl));
  out.push_back(number(row.perplexity));
  return out;
}

std::string rows_text(const std::vector<SteeringRow>& rows,
                      const std::vector<std::string>& prompts) {
  std::vector<std::vector<std::string>> lines = {headings(rows.front())};
  lines.front().push_back("after \"" + prompts.front() + "\"");
  for (const SteeringRow& row : rows) {
    lines.push_back(figures(row, rows.front()));
    std::string text = row.texts.front();  // tables and pages make it visible
    if (text.size() > kShownBytes) {
      std::size_t end = kShownBytes;
      while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
      text = text.substr(0, end) + "...";
    }
    lines.back().push_back(text);
  }
  const std::size_t n_columns = lines.front().size();
  return evaluation::text_table(std::move(lines), n_columns);
}

/// A change of what success is: +0.123 of a share, +1.23 nats of log-odds.
std::string success_text(const SteeringStudy& study, double change) {
  return study.plan.words.empty() ? fmt::format("{:+.2f} nats", change)
                                  : fmt::format("{:+.3f}", change);
}

/// What the figures come to, in words; one line each.
std::vector<std::string> verdict(const SteeringStudy& study) {
  std::vector<std::string> lines;
  if (study.plan.attributes.empty() && study.plan.words.empty()) {
    return {
        "Neither attributes nor words were given: there is no score of success, and no setting was "
        "chosen."};
  }
  if (!study.chosen) {
    return {fmt::format("No setting's texts stayed below {:g} times the plain model's perplexity.",
                        study.plan.most_perplexity)};
  }
  const SteeringRow& chosen = study.rows[*study.chosen];
  lines.push_back(fmt::format("Chosen: {}, {}, coefficient {:g}.", chosen.point, chosen.positions,
                              chosen.value));
  const std::vector<SteeringRow>& rows = study.test_rows.empty() ? study.rows : study.test_rows;
  const SteeringRow& row = study.test_rows.empty() ? chosen : study.test_rows.back();
  lines.push_back(fmt::format(
      "On the {} prompts: {} {}, perplexity {:.2f} times the plain model's.",
      study.test_rows.empty() ? "same" : "test",
      study.plan.words.empty()
          ? std::string("effect")
          : fmt::format("share of the words {:.3f}, of the plain model's {:.3f}, change", row.share,
                        rows.front().share),
      success_text(study, row.success() - rows.front().success()),
      row.perplexity / rows.front().perplexity));
  if (study.control) {
    const SteeringControl& control = *study.control;
    const auto exceeded = [&](std::int64_t n_below, const std::vector<double>& of,
                              const char* what) {
      lines.push_back(fmt::format("It exceeds {} of {} {} of its norm (the largest {}).", n_below,
                                  of.size(), what, success_text(study, of.back())));
    };
    exceeded(control.n_pairs_below, control.random_pairs, "differences of random word pairs");
    if (!control.isotropic.empty())
      exceeded(control.n_isotropic_below, control.isotropic, "isotropic draws");
  }
  return lines;
}

Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json rows_json(const std::vector<SteeringRow>& rows) {
  Json list = Json::array();
  for (const SteeringRow& row : rows) {
    Json texts = Json::array();
    for (const std::string& text : row.texts) texts.push_back(visible_text(text));
    list.push_back(Json::object({{"name", row.name},
                                 {"point", row.point},
                                 {"positions", row.positions},
                                 {"value", row.value},
                                 {"log_odds", Json::array_of(row.log_odds)},
                                 {"kl", finite(row.kl)},
                                 {"share", finite(row.share)},
                                 {"perplexity", finite(row.perplexity)},
                                 {"edited_rows", row.n_edited},
                                 {"sink_rows_left_alone", row.n_left_alone},
                                 {"texts", texts}}));
  }
  return list;
}

void add_rows(evaluation::Page& page, const std::vector<SteeringRow>& rows,
              const std::vector<std::string>& prompts) {
  evaluation::PageTable table;
  for (const std::string& heading : headings(rows.front())) {
    const bool is_text = heading == "setting" || heading == "positions";
    const bool is_nats = heading == "log-odds" || heading == "effect" || heading == "KL";
    table.columns.push_back({heading, is_nats ? "nats" : "", !is_text});
  }
  for (const std::string& prompt : prompts)
    table.columns.push_back({"after: " + prompt, "", false});
  for (const SteeringRow& row : rows) {
    evaluation::PageRow line;
    if (row.name != "steered") line.kind = evaluation::PageRow::Kind::kBaseline;
    for (const std::string& cell : figures(row, rows.front())) line.cells.push_back({cell});
    for (const std::string& text : row.texts) line.cells.push_back({text});
    table.rows.push_back(std::move(line));
  }
  page.add_table(table);
}

/// A figure of the sweep, hook point by coefficient, at one range of positions.
evaluation::HeatMapChart sweep_map(const SteeringStudy& study, const std::string& positions,
                                   const std::string& title, const std::string& unit,
                                   const std::function<double(const SteeringRow&)>& figure) {
  evaluation::HeatMapChart chart;
  chart.title = fmt::format("{}, positions {}", title, positions);
  chart.value_label = unit;
  chart.row_label = "hook point";
  chart.column_label = "coefficient";
  chart.columns = study.plan.coefficients;
  for (const SteeringRow& row : study.rows) {
    if (row.name != "steered" || row.positions != positions) continue;
    if (chart.rows.empty() || chart.rows.back() != row.point) chart.rows.push_back(row.point);
    chart.values.push_back(figure(row));
  }
  return chart;
}

void add_sweep_maps(evaluation::Page& page, const SteeringStudy& study) {
  const SteeringRow& plain = study.rows.front();
  std::vector<std::string> ranges;
  for (const SteeringRow& row : study.rows) {
    if (row.name != "steered") continue;
    if (std::find(ranges.begin(), ranges.end(), row.positions) == ranges.end())
      ranges.push_back(row.positions);
  }
  std::vector<evaluation::HeatMapChart> charts;
  for (const std::string& range : ranges) {
    if (!std::isnan(plain.success())) {
      const bool is_share = !study.plan.words.empty();
      charts.push_back(sweep_map(
          study, range, is_share ? "change of the share" : "effect", is_share ? "" : "nats",
          [&](const SteeringRow& row) { return row.success() - plain.success(); }));
    }
    charts.push_back(
        sweep_map(study, range, "perplexity over the plain text's", "",
                  [&](const SteeringRow& row) { return row.perplexity / plain.perplexity; }));
    charts.back().is_diverging = false;
  }
  page.add_charts(charts);
}

std::vector<std::vector<std::string>> matrix_lines(const SteeringStudy& study) {
  std::vector<std::vector<std::string>> lines = {{"direction"}};
  for (const Attribute& one : study.plan.attributes) lines.front().push_back(one.name);
  for (const SpecificityRow& row : study.matrix) {
    lines.push_back({row.direction});
    for (const double effect : row.effects) lines.back().push_back(fmt::format("{:+.2f}", effect));
  }
  return lines;
}

}  // namespace

std::string study_table(const SteeringStudy& study) {
  std::string out = rows_text(study.rows, study.plan.prompts);
  if (!study.test_rows.empty()) {
    out += fmt::format("\nOn {} test prompts:\n\n{}", study.plan.test_prompts.size(),
                       rows_text(study.test_rows, study.plan.test_prompts));
  }
  if (!study.matrix.empty()) {
    out += "\nEffect on each attribute (nats) at the chosen setting:\n\n" +
           evaluation::text_table(matrix_lines(study), 1);
  }
  out += "\n";
  for (const std::string& line : verdict(study)) out += line + "\n";
  return out;
}

Json study_json(const SteeringStudy& study) {
  Json norms = Json::object();
  for (const auto& [point, norm] : study.norms) norms[point] = norm;
  Json out = Json::object(
      {{"direction", study.plan.direction},
       {"success", study.plan.words.empty() ? "log_odds" : "share"},
       {"norms", norms},
       {"prompts", Json::array_of(study.plan.prompts)},
       {"rows", rows_json(study.rows)},
       {"chosen", study.chosen ? Json(static_cast<std::int64_t>(*study.chosen)) : Json()}});
  Json names = Json::array();
  for (const Attribute& one : study.plan.attributes) names.push_back(one.name);
  out["attributes"] = names;
  out["test_prompts"] = Json::array_of(study.plan.test_prompts);
  out["test_rows"] = rows_json(study.test_rows);
  if (study.control) {
    out["control"] = Json::object({{"effect", study.control->effect},
                                   {"random_pairs", Json::array_of(study.control->random_pairs)},
                                   {"random_pairs_below", study.control->n_pairs_below},
                                   {"isotropic", Json::array_of(study.control->isotropic)},
                                   {"isotropic_below", study.control->n_isotropic_below}});
  }
  Json matrix = Json::array();
  for (const SpecificityRow& row : study.matrix) {
    matrix.push_back(
        Json::object({{"direction", row.direction}, {"effects", Json::array_of(row.effects)}}));
  }
  out["matrix"] = matrix;
  out["verdict"] = Json::array_of(verdict(study));
  return out;
}

evaluation::Page study_page(const SteeringStudy& study, const std::string& subject) {
  evaluation::Page page("Steering", study.plan.kind, study.plan.direction + " in " + subject);
  for (const std::string& line : verdict(study)) page.add_text(line);
  page.add_heading("Sweep");
  page.add_text(
      "Effects are against the plain model; perplexity is the plain model's on the text.");
  add_sweep_maps(page, study);
  add_rows(page, study.rows, study.plan.prompts);
  if (!study.test_rows.empty()) {
    page.add_heading("Test prompts");
    add_rows(page, study.test_rows, study.plan.test_prompts);
  }
  if (!study.matrix.empty()) {
    page.add_heading("What else moves");
    evaluation::PageTable table;
    const auto lines = matrix_lines(study);
    for (const std::string& heading : lines.front())
      table.columns.push_back(
          {heading, table.columns.empty() ? "" : "nats", !table.columns.empty()});
    for (std::size_t i = 1; i < lines.size(); ++i) {
      evaluation::PageRow row;
      for (const std::string& cell : lines[i]) row.cells.push_back({cell});
      table.rows.push_back(std::move(row));
    }
    page.add_table(table);
  }
  return page;
}

}  // namespace thresher::features
