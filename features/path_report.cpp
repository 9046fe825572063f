#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/visible_text.h"
#include "evaluation/text_table.h"
#include "features/ablation_report.h"

namespace thresher::features {
namespace {

using activation_cache::DropReason;
using Grid = std::vector<std::vector<std::string>>;

Grid edges_grid(const std::vector<Edge>& edges, std::int64_t top) {
  Grid lines = {{"sender", "receiver"}};
  const std::size_t n = std::min(edges.size(), static_cast<std::size_t>(top));
  for (const OutputFigure& figure : output_figures()) {
    if (edges.empty() || std::isnan(edges.front().effect.*figure.value)) continue;
    lines[0].push_back(figure.name);
  }
  for (std::size_t i = 0; i < n; ++i) {
    std::vector<std::string> line = {edges[i].sender, edges[i].receiver};
    for (const OutputFigure& figure : output_figures()) {
      const double value = edges[i].effect.*figure.value;
      if (!std::isnan(value)) line.push_back(figure_text(value));
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

/// "blocks.10.hook_mlp_out" as {10, "hook_mlp_out"}, so that names sort as computed.
std::pair<int, std::string> order_of(const std::string& name) {
  int block = name.starts_with("hook_embed") ? -1 : std::numeric_limits<int>::max();
  if (name.starts_with("blocks.")) block = std::stoi(name.substr(7, 9));
  return {block, name};
}

std::vector<std::string> in_order(std::vector<std::string> names) {
  std::sort(names.begin(), names.end(),
            [](const std::string& a, const std::string& b) { return order_of(a) < order_of(b); });
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

/// Kept positions at which the latent fires, strongest first; without any the kept position of
/// largest pre-activation.
std::vector<std::size_t> telling_positions(const LatentPathsView& view, std::int64_t top) {
  std::vector<std::size_t> kept;
  for (const std::int64_t position : view.run->positions(/*with_sinks=*/false)) {
    kept.push_back(static_cast<std::size_t>(position));
  }
  std::stable_sort(kept.begin(), kept.end(), [&](std::size_t a, std::size_t b) {
    return view.paths->pre_activations[a] > view.paths->pre_activations[b];
  });
  std::size_t n = 0;
  while (n < kept.size() && view.paths->activations[kept[n]] > 0) ++n;
  kept.resize(std::min({kept.size(), std::max<std::size_t>(n, 1), static_cast<std::size_t>(top)}));
  return kept;
}

Grid contributions_grid(const LatentPathsView& view, std::size_t position, std::int64_t top) {
  const at::Tensor column =
      view.paths->contributions.select(1, static_cast<std::int64_t>(position)).contiguous();
  const auto* value = column.const_data_ptr<double>();
  std::vector<std::size_t> order(view.paths->components.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [value](std::size_t a, std::size_t b) {
    return std::abs(value[a]) > std::abs(value[b]);
  });
  const std::size_t n = std::min(order.size(), static_cast<std::size_t>(top));
  Grid lines = {{"component", "writes"}};
  double rest = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i < n) {
      lines.push_back({view.paths->components[order[i]], figure_text(value[order[i]])});
    } else {
      rest += value[order[i]];
    }
  }
  if (n < order.size()) {
    lines.push_back({fmt::format("{} others", order.size() - n), figure_text(rest)});
  }
  lines.push_back({"bias", figure_text(view.paths->bias)});
  lines.push_back({"pre-activation", figure_text(view.paths->pre_activations[position])});
  return lines;
}

std::string position_title(const LatentPathsView& view, std::size_t position) {
  const double activation = view.paths->activations[position];
  return fmt::format("position {}, \"{}\": {}", position, visible_text(view.run->tokens[position]),
                     activation > 0 ? fmt::format("activation {:.4g}", activation) : "silent");
}

Grid logits_grid(const LatentPathsView& view, std::int64_t top) {
  Grid lines = {{"promotes", "effect", "suppresses", "effect"}};
  const auto& [promoted, suppressed] = *view.logits;
  const std::size_t n =
      std::min(std::max(promoted.size(), suppressed.size()), static_cast<std::size_t>(top));
  const auto cells = [&](const std::vector<std::pair<std::int32_t, double>>& tokens,
                         std::size_t i) {
    if (i >= tokens.size()) return std::pair<std::string, std::string>();
    return std::pair(view.tokenizer->decode({&tokens[i].first, 1}),
                     fmt::format("{:+.4f}", tokens[i].second));
  };
  for (std::size_t i = 0; i < n; ++i) {
    const auto [up, up_effect] = cells(promoted, i);
    const auto [down, down_effect] = cells(suppressed, i);
    lines.push_back({up, up_effect, down, down_effect});
  }
  return lines;
}

Json tokens_json(const std::vector<std::pair<std::int32_t, double>>& tokens,
                 const corpus::Tokenizer& tokenizer) {
  Json out = Json::array();
  for (const auto& [id, effect] : tokens) {
    out.push_back(Json::object({{"id", static_cast<std::int64_t>(id)},
                                {"text", visible_text(tokenizer.decode({&id, 1}))},
                                {"effect", effect}}));
  }
  return out;
}

}  // namespace

Json edges_json(const std::vector<Edge>& edges) {
  Json out = Json::array();
  for (const Edge& edge : edges) {
    out.push_back(Json::object({{"sender", edge.sender},
                                {"receiver", edge.receiver},
                                {"effect", outputs_json(edge.effect)}}));
  }
  return out;
}

std::string edges_text(const std::vector<Edge>& edges, std::int64_t top) {
  return evaluation::text_table(edges_grid(edges, top), 2);
}

void add_edges(const std::vector<Edge>& edges, const OutputFigure& by, std::int64_t top,
               evaluation::Page& page) {
  evaluation::HeatMapChart chart;
  chart.title = fmt::format("Change of {} by each direct path", by.name);
  chart.value_label = by.unit;
  chart.row_label = "sender";
  chart.column_label = "receiver";
  for (const Edge& edge : edges) {
    chart.rows.push_back(edge.sender);
    chart.columns.push_back(edge.receiver);
  }
  chart.rows = in_order(chart.rows);
  chart.columns = in_order(chart.columns);
  chart.values.assign(chart.rows.size() * chart.columns.size(),
                      std::numeric_limits<double>::quiet_NaN());
  const auto place = [](const std::vector<std::string>& names, const std::string& name) {
    return static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
  };
  for (const Edge& edge : edges) {
    chart.values[place(chart.rows, edge.sender) * chart.columns.size() +
                 place(chart.columns, edge.receiver)] = edge.effect.*by.value;
  }
  page.add_charts(std::vector{chart});
  page.add_table(page_table(edges_grid(edges, top), 2));
}

Json latent_paths_json(const LatentPathsView& view) {
  const LatentPaths& paths = *view.paths;
  Json positions = Json::array();
  for (std::size_t token = 0; token < view.run->ids.size(); ++token) {
    const at::Tensor column =
        paths.contributions.select(1, static_cast<std::int64_t>(token)).contiguous();
    const auto* value = column.const_data_ptr<double>();
    positions.push_back(Json::object(
        {{"position", static_cast<std::int64_t>(token)},
         {"text", visible_text(view.run->tokens[token])},
         {"left_out", view.run->dropped[token] != DropReason::kKept},
         {"contributions", Json::array_of(std::vector<double>(value, value + column.numel()))},
         {"pre_activation", paths.pre_activations[token]},
         {"activation", paths.activations[token]}}));
  }
  return Json::object({{"latent", view.latent},
                       {"components", Json::array_of(paths.components)},
                       {"bias", paths.bias},
                       {"tokens", positions},
                       {"promoted", tokens_json(view.logits->promoted, *view.tokenizer)},
                       {"suppressed", tokens_json(view.logits->suppressed, *view.tokenizer)}});
}

std::string latent_paths_text(const LatentPathsView& view, std::int64_t top) {
  std::string out;
  for (const std::size_t position : telling_positions(view, 3)) {
    out += fmt::format("{}\n\n{}\n", position_title(view, position),
                       evaluation::text_table(contributions_grid(view, position, top)));
  }
  return fmt::format("{}\n\n{}{} in the logits\n\n{}", view.latent, out, view.latent,
                     evaluation::text_table(logits_grid(view, top), 1));
}

void add_latent_paths(const LatentPathsView& view, std::int64_t top, evaluation::Page& page) {
  evaluation::HeatMapChart chart;
  chart.title = fmt::format("What each component writes along the encoder of {}", view.latent);
  chart.value_label = "pre-activation";
  chart.column_label = "position and token";
  chart.rows = view.paths->components;
  for (const std::int64_t position : view.run->positions(/*with_sinks=*/false)) {
    chart.columns.push_back(
        fmt::format("{} {}", position, view.run->tokens[static_cast<std::size_t>(position)]));
  }
  for (std::int64_t row = 0; row < view.paths->contributions.size(0); ++row) {
    for (const std::int64_t position : view.run->positions(/*with_sinks=*/false)) {
      chart.values.push_back(view.paths->contributions[row][position].item<double>());
    }
  }
  page.add_charts(std::vector{chart});
  for (const std::size_t position : telling_positions(view, 3)) {
    page.add_heading(position_title(view, position));
    page.add_table(page_table(contributions_grid(view, position, top), 1));
  }
  page.add_heading("In the logits");
  page.add_table(page_table(logits_grid(view, top), 1));
}

}  // namespace thresher::features
