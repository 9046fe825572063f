#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "evaluation/comparison.h"
#include "evaluation/curve_charts.h"
#include "evaluation/metric_columns.h"
#include "evaluation/page.h"

namespace thresher::evaluation {
namespace {

constexpr double kLogRatio = 8;

/// The SAEs of all runs in the order of the comparison.
std::vector<ChartedSae> charted(const std::vector<RunRecord>& runs, const Json& comparison) {
  std::vector<ChartedSae> out;
  for (const RunRecord& run : runs) {
    for (const SaeRecord& sae : run.saes) {
      const Json& entry = comparison.at("saes").as_array().at(out.size());
      out.push_back({entry.at("label").as_string(), out.size(), &sae});
    }
  }
  return out;
}

PageTable metrics_table(const Json& comparison) {
  PageTable table;
  table.columns = {{"SAE", "", false}};
  for (const MetricColumn& column : metric_columns()) {
    table.columns.push_back({column.label, column.unit});
  }
  table.columns.push_back({"trained on", "tokens"});
  for (const Json& sae : comparison.at("saes").as_array()) {
    const auto& best = sae.at("best").as_array();
    const std::string& reason = sae.at("reason").as_string();
    PageRow row{PageRow::Kind::kNormal, {{sae.at("label").as_string()}}};
    for (const MetricColumn& column : metric_columns()) {
      const Json& metrics = sae.at("metrics");
      const Json* value = metrics.is_object() ? metrics.find(column.name) : nullptr;
      const bool is_missing = value == nullptr || !value->is_number();
      row.cells.push_back({figure_text(value, column.decimals), is_missing ? reason : "",
                           std::find(best.begin(), best.end(), Json(column.name)) != best.end()});
    }
    row.cells.push_back({figure_text(&sae.at("training_tokens"), 0)});
    table.rows.push_back(std::move(row));
  }
  return table;
}

ScatterChart pareto_chart(const std::vector<ScatterPoint>& points, const std::string& metric,
                          bool is_less_better, const std::string& note) {
  ScatterChart chart;
  chart.title = metric + " against l0";
  chart.x = {"l0, active latents a token"};
  chart.y = {note};
  chart.y.wants_zero = false;
  chart.is_less_better_y = is_less_better;
  chart.points = points;
  double least = INFINITY, most = 0;
  for (const ScatterPoint& point : points) {
    least = std::min(least, point.x);
    most = std::max(most, point.x);
  }
  chart.x.is_log = most > kLogRatio * least;
  chart.x.wants_zero = false;
  return chart;
}

/// Plots of one group; a metric that fewer than two SAEs have gives none.
std::vector<ScatterChart> pareto_charts(const Json& comparison, const Json& group) {
  std::vector<ScatterChart> charts;
  for (const auto& [metric, is_less_better] :
       {std::pair{"fvu", true}, {"ce_recovered_mean", false}, {"ce_recovered_zero", false}}) {
    std::vector<ScatterPoint> points;
    const auto& saes = comparison.at("saes").as_array();
    for (std::size_t i = 0; i < saes.size(); ++i) {
      const Json& metrics = saes[i].at("metrics");
      if (!(saes[i].at("group") == group) || !metrics.is_object()) continue;
      const Json *l0 = metrics.find("l0"), *value = metrics.find(metric);
      if (l0 == nullptr || value == nullptr || !l0->is_number() || !value->is_number()) continue;
      points.push_back({saes[i].at("label").as_string(), i, l0->as_double(), value->as_double()});
    }
    if (points.size() > 1) {
      charts.push_back(
          pareto_chart(points, metric, is_less_better,
                       is_less_better ? "lower left is better" : "upper left is better"));
    }
  }
  return charts;
}

std::vector<std::string> labels_of(const Json& comparison, const Json& group) {
  std::vector<std::string> labels;
  for (const Json& sae : comparison.at("saes").as_array()) {
    if (sae.at("group") == group) labels.push_back(sae.at("label").as_string());
  }
  return labels;
}

void add_pareto(Page& page, const Json& comparison,
                const std::vector<std::pair<std::string, std::size_t>>& legend) {
  std::vector<Json> groups;
  for (const Json& sae : comparison.at("saes").as_array()) {
    const Json& group = sae.at("group");
    if (!group.is_null() && std::find(groups.begin(), groups.end(), group) == groups.end()) {
      groups.push_back(group);
    }
  }
  bool has_heading = false;
  std::vector<std::string> alone;
  for (const Json& group : groups) {
    const std::vector<ScatterChart> charts = pareto_charts(comparison, group);
    const std::vector<std::string> labels = labels_of(comparison, group);
    if (labels.size() == 1) alone.push_back(labels[0]);
    if (charts.empty()) continue;
    if (!has_heading) {
      page.add_heading("What sparsity costs");
      page.add_legend(legend);
    }
    has_heading = true;
    if (groups.size() > 1) {
      for (const Json& sae : comparison.at("saes").as_array()) {
        if (!(sae.at("group") == group)) continue;
        page.add_text(fmt::format("Measured alike: hook point {}, held-out data {}.",
                                  sae.at("hook_point").as_string(),
                                  plain_value(sae.at("held_out_digest")).substr(0, 12)));
        break;
      }
    }
    page.add_charts(charts);
  }
  if (has_heading) page.add_text("The dashed line joins the SAEs that no other beats in both.");
  if (alone.empty() || comparison.at("saes").as_array().size() < 2) return;
  if (!has_heading) page.add_heading("What sparsity costs");
  page.add_text(fmt::format("Not drawn, because no other SAE was measured alike: {}.",
                            fmt::join(alone, ", ")));
}

void add_differences(Page& page, const Json& fields, const std::string& heading) {
  const std::vector<std::vector<std::string>> grid = differences_grid(fields);
  if (grid.empty()) return;
  page.add_heading(heading);
  PageTable table;
  for (const std::string& label : grid[0])
    table.columns.push_back({label, "", !table.columns.empty()});
  for (std::size_t i = 1; i < grid.size(); ++i) {
    PageRow row;
    for (const std::string& text : grid[i]) row.cells.push_back({text});
    table.rows.push_back(std::move(row));
  }
  page.add_table(table);
}

}  // namespace

std::string comparison_page(const std::vector<RunRecord>& runs, const Json& comparison) {
  const std::vector<ChartedSae> saes = charted(runs, comparison);
  std::string names;
  for (const RunRecord& run : runs) names += (names.empty() ? "" : ", ") + run.path.string();
  Page page(fmt::format("Comparison of {} {}", saes.size(), saes.size() == 1 ? "SAE" : "SAEs"), "",
            names);
  for (const Json& warning : comparison.at("warnings").as_array()) {
    page.add_warning(warning.as_string());
  }
  page.add_heading("Metrics on held-out data");
  page.add_table(metrics_table(comparison));
  page.add_text("★ is not beaten by an SAE that was measured on the same positions.");
  std::vector<std::pair<std::string, std::size_t>> legend;
  for (const ChartedSae& sae : saes) legend.emplace_back(sae.label, sae.index);
  add_pareto(page, comparison, legend);
  if (const auto charts = training_charts(saes); !charts.empty()) {
    page.add_heading("Training");
    page.add_legend(legend);
    page.add_charts(charts);
  }
  if (const auto charts = held_out_charts(saes); !charts.empty()) {
    page.add_heading("Checkpoints on held-out text");
    page.add_legend(legend);
    page.add_charts(charts);
  }
  if (const auto charts = density_charts(saes); !charts.empty()) {
    page.add_heading("How often latents fire");
    page.add_charts(charts);
  }
  add_differences(page, comparison.at("differing_run_fields"), "Runs differ in");
  add_differences(page, comparison.at("differing_sae_fields"), "SAEs differ in");
  return page.html();
}

}  // namespace thresher::evaluation
