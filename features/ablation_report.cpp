#include "features/ablation_report.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/visible_text.h"
#include "evaluation/text_table.h"

namespace thresher::features {
namespace {

using activation_cache::DropReason;
using Grid = std::vector<std::vector<std::string>>;

/// Figures that have a value in any of these outputs.
std::vector<OutputFigure> measured(const Outputs& outputs) {
  std::vector<OutputFigure> out;
  for (const OutputFigure& figure : output_figures()) {
    if (!std::isnan(outputs.*figure.value)) out.push_back(figure);
  }
  return out;
}

struct Cell {
  std::size_t component, position;
};

/// The `top` cells of largest effect among those of single positions or of all at once.
std::vector<Cell> strongest(const AblationMap& map, bool at_once, const OutputFigure& by,
                            std::int64_t top) {
  std::vector<Cell> cells;
  for (std::size_t i = 0; i < map.components.size(); ++i) {
    for (std::size_t p = 0; p < map.positions.size(); ++p) {
      if ((map.positions[p] == kAllPositions) == at_once) cells.push_back({i, p});
    }
  }
  const auto size = [&](const Cell& cell) {
    return std::abs(map.at(cell.component, cell.position).mean.*by.value);
  };
  std::stable_sort(cells.begin(), cells.end(),
                   [&](const Cell& a, const Cell& b) { return size(a) > size(b); });
  cells.resize(std::min(cells.size(), static_cast<std::size_t>(top)));
  return cells;
}

std::string effect_text(const Effect& effect, const OutputFigure& figure) {
  const std::string mean = figure_text(effect.mean.*figure.value);
  const double spread = effect.spread.*figure.value;
  return std::isnan(spread) ? mean : fmt::format("{} ± {}", mean, figure_text(spread));
}

/// Component, where, and its effects.
Grid cells_grid(const AblationMap& map, const ContextRun& run, const std::vector<Cell>& cells,
                const OutputFigure& by) {
  std::vector<OutputFigure> figures = measured(map.unchanged);
  std::stable_partition(figures.begin(), figures.end(),
                        [&](const OutputFigure& one) { return one.value == by.value; });
  const std::vector<std::string> names = position_names(map, run);
  Grid lines = {{"component", "position"}};
  for (const OutputFigure& figure : figures) lines[0].push_back(figure.name);
  const bool is_restoring = map.source.has_value();
  const double whole = is_restoring ? (*map.source).*by.value - map.unchanged.*by.value : 0;
  if (is_restoring) lines[0].push_back("restored");
  for (const Cell& cell : cells) {
    const Effect& effect = map.at(cell.component, cell.position);
    std::vector<std::string> line = {map.components[cell.component], names[cell.position]};
    for (const OutputFigure& figure : figures) line.push_back(effect_text(effect, figure));
    if (is_restoring) line.push_back(figure_text(effect.mean.*by.value / whole));
    lines.push_back(std::move(line));
  }
  return lines;
}

Grid outputs_grid(const AblationMap& map) {
  Grid lines = {{"run"}, {map.source ? "corrupted" : "unchanged"}};
  if (map.source) lines.push_back({"clean"});
  for (const OutputFigure& figure : measured(map.unchanged)) {
    lines[0].push_back(figure.name);
    lines[1].push_back(figure_text(map.unchanged.*figure.value));
    if (map.source) lines[2].push_back(figure_text((*map.source).*figure.value));
  }
  return lines;
}

Json table_json(const AblationMap& map, Outputs Effect::*part, double Outputs::*figure) {
  Json rows = Json::array();
  for (std::size_t i = 0; i < map.components.size(); ++i) {
    Json row = Json::array();
    for (std::size_t p = 0; p < map.positions.size(); ++p) {
      row.push_back(Json((map.at(i, p).*part).*figure));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

/// Heat maps of one kind of component each, so that a column of blocks reads from top to bottom.
std::vector<std::string> kind_names(const AblationMap& map) {
  std::vector<std::string> kinds;
  for (const std::string& name : map.components) {
    const std::size_t hook = name.find(".hook_");
    const std::string kind = hook == std::string::npos ? "" : name.substr(hook + 6);
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
  }
  return kinds;
}

evaluation::HeatMapChart heat_map(const AblationMap& map, const ContextRun& run,
                                  const OutputFigure& figure, const std::string& kind) {
  evaluation::HeatMapChart chart;
  chart.title = kind.empty() ? figure.name : fmt::format("{} at {}", figure.name, kind);
  chart.value_label = figure.unit;
  chart.column_label = "position and token";
  chart.row_label = kind.empty() ? "" : "block";
  chart.columns = position_names(map, run);
  for (std::size_t i = 0; i < map.components.size(); ++i) {
    const std::string& name = map.components[i];
    const std::size_t hook = name.find(".hook_");
    if ((hook == std::string::npos ? "" : name.substr(hook + 6)) != kind) continue;
    chart.rows.push_back(kind.empty() || hook == std::string::npos ? name
                                                                   : name.substr(7, hook - 7));
    for (std::size_t p = 0; p < map.positions.size(); ++p) {
      chart.values.push_back(map.at(i, p).mean.*figure.value);
    }
  }
  return chart;
}

}  // namespace

evaluation::PageTable page_table(const Grid& lines, std::size_t n_left) {
  evaluation::PageTable table;
  for (std::size_t i = 0; i < lines[0].size(); ++i) {
    table.columns.push_back({lines[0][i], "", i >= n_left});
  }
  for (std::size_t line = 1; line < lines.size(); ++line) {
    evaluation::PageRow row;
    for (const std::string& text : lines[line]) row.cells.push_back({text});
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::string figure_text(double value) {
  if (std::isnan(value)) return "–";
  if (value == 0) return "0";
  const double magnitude = std::abs(value);
  if (magnitude < 5e-4 || magnitude >= 1e5) return fmt::format("{:.2e}", value);
  return fmt::format("{:.4f}", value);
}

const OutputFigure& leading_figure(const AnswerTokens& tokens) {
  const auto& figures = output_figures();
  const auto find = [&](double Outputs::*value) -> const OutputFigure& {
    return *std::find_if(figures.begin(), figures.end(),
                         [value](const OutputFigure& one) { return one.value == value; });
  };
  if (!tokens.answer) return find(&Outputs::kl);
  return find(tokens.against ? &Outputs::logit_difference : &Outputs::probability);
}

std::vector<std::string> position_names(const AblationMap& map, const ContextRun& run) {
  std::vector<std::string> names;
  for (const std::int64_t position : map.positions) {
    names.push_back(
        position == kAllPositions
            ? "all"
            : fmt::format("{} {}", position, run.tokens[static_cast<std::size_t>(position)]));
  }
  return names;
}

Json outputs_json(const Outputs& outputs) {
  Json out = Json::object();
  for (const OutputFigure& figure : output_figures()) {
    out[figure.name] = outputs.*figure.value;  // NaN is written as null
  }
  return out;
}

Json map_json(const AblationMap& map, const ContextRun& run) {
  Json tokens = Json::array();
  for (std::size_t i = 0; i < run.ids.size(); ++i) {
    tokens.push_back(Json::object({{"position", static_cast<std::int64_t>(i)},
                                   {"id", static_cast<std::int64_t>(run.ids[i])},
                                   {"text", visible_text(run.tokens[i])},
                                   {"left_out", run.dropped[i] != DropReason::kKept}}));
  }
  Json positions = Json::array();
  for (const std::int64_t position : map.positions) {
    positions.push_back(position == kAllPositions ? Json("all") : Json(position));
  }
  Json effects = Json::object(), spread = Json::object();
  bool has_spread = false;
  for (const OutputFigure& figure : measured(map.unchanged)) {
    effects[figure.name] = table_json(map, &Effect::mean, figure.value);
    spread[figure.name] = table_json(map, &Effect::spread, figure.value);
    for (const Effect& effect : map.effects) {
      has_spread = has_spread || !std::isnan(effect.spread.*figure.value);
    }
  }
  return Json::object({{"tokens", tokens},
                       {"unchanged", outputs_json(map.unchanged)},
                       {"source", map.source ? outputs_json(*map.source) : Json()},
                       {"components", Json::array_of(map.components)},
                       {"positions", positions},
                       {"effects", effects},
                       {"spread", has_spread ? spread : Json()}});
}

std::string map_text(const AblationMap& map, const ContextRun& run, const OutputFigure& by,
                     std::int64_t top) {
  std::string out =
      evaluation::text_table(outputs_grid(map)) + "\nchange, all positions at once:\n\n";
  out += evaluation::text_table(cells_grid(map, run, strongest(map, true, by, top), by), 2);
  const std::vector<Cell> single = strongest(map, false, by, top);
  if (single.empty()) return out;
  return out + "\nchange, one position at a time:\n\n" +
         evaluation::text_table(cells_grid(map, run, single, by), 2);
}

void add_map(const AblationMap& map, const ContextRun& run, const OutputFigure& by,
             std::int64_t top, evaluation::Page& page) {
  page.add_heading("Runs");
  page.add_table(page_table(outputs_grid(map), 1));
  std::vector<OutputFigure> figures = measured(map.unchanged);
  std::stable_partition(figures.begin(), figures.end(),
                        [&](const OutputFigure& one) { return one.value == by.value; });
  for (const OutputFigure& figure : figures) {
    page.add_heading(fmt::format("Change of {}", figure.name));
    std::vector<evaluation::HeatMapChart> charts;
    for (const std::string& kind : kind_names(map)) {
      charts.push_back(heat_map(map, run, figure, kind));
    }
    page.add_charts(charts);
  }
  page.add_heading("All positions at once");
  page.add_table(page_table(cells_grid(map, run, strongest(map, true, by, top), by), 2));
  const std::vector<Cell> single = strongest(map, false, by, top);
  if (single.empty()) return;
  page.add_heading("One position at a time");
  page.add_table(page_table(cells_grid(map, run, single, by), 2));
}

MeanMap mean_over_texts(const std::vector<AblationMap>& maps) {
  MeanMap out;
  out.components = maps.front().components;
  for (std::size_t i = 0; i < out.components.size(); ++i) {
    std::vector<Outputs> effects;
    for (const AblationMap& map : maps) {
      effects.push_back(map.at(i, map.positions.size() - 1).mean);
    }
    out.effects.push_back(effect_of(effects));
  }
  return out;
}

Json mean_json(const MeanMap& mean) {
  Json rows = Json::array();
  for (std::size_t i = 0; i < mean.components.size(); ++i) {
    rows.push_back(Json::object({{"component", mean.components[i]},
                                 {"effect", outputs_json(mean.effects[i].mean)},
                                 {"spread", outputs_json(mean.effects[i].spread)}}));
  }
  return rows;
}

std::string mean_text(const MeanMap& mean, const OutputFigure& by, std::int64_t top) {
  std::vector<std::size_t> order(mean.components.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::abs(mean.effects[a].mean.*by.value) > std::abs(mean.effects[b].mean.*by.value);
  });
  order.resize(std::min(order.size(), static_cast<std::size_t>(top)));
  Grid lines = {{"component"}};
  const std::vector<OutputFigure> figures = measured(mean.effects.front().mean);
  for (const OutputFigure& figure : figures) lines[0].push_back(figure.name);
  for (const std::size_t i : order) {
    lines.push_back({mean.components[i]});
    for (const OutputFigure& figure : figures) {
      lines.back().push_back(effect_text(mean.effects[i], figure));
    }
  }
  return evaluation::text_table(lines);
}

}  // namespace thresher::features
