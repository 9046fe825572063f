#include "evaluation/curve_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace thresher::evaluation {
namespace {

constexpr double kLogRatio = 20;

struct Known {
  const char* figure;
  const char* explanation;
  bool may_be_log = false;
};
constexpr std::array kKnown = {
    Known{"batch_fvu", "of the training batch", true},
    Known{"loss", "mean over a batch", true},
    Known{"reconstruction_loss", "", true},
    Known{"sparsity_loss", "", true},
    Known{"aux_loss", "", true},
    Known{"l0", "active latents a token", true},
    Known{"dead_latents", "silent for dead_window_tokens"},
    Known{"learning_rate", ""},
    Known{"gradient_norm", "before clipping", true},
    Known{"parameter_norm", "", true},
    Known{"update_norm", "", true},
};

Known known(const std::string& figure) {
  for (const Known& one : kKnown) {
    if (figure == one.figure) return one;
  }
  return {figure.c_str(), ""};
}

/// All figures of the SAEs: the known ones in their order, then others as they appear.
std::vector<std::string> figures_of(const std::vector<ChartedSae>& saes) {
  std::vector<std::string> found, ordered;
  for (const ChartedSae& charted : saes) {
    for (const auto& [name, curve] : charted.sae->curves.figures) {
      if (std::find(found.begin(), found.end(), name) == found.end()) found.push_back(name);
    }
  }
  for (const Known& one : kKnown) {
    const auto at = std::find(found.begin(), found.end(), one.figure);
    if (at == found.end()) continue;
    ordered.push_back(*at);
    found.erase(at);
  }
  ordered.insert(ordered.end(), found.begin(), found.end());
  return ordered;
}

bool is_constant(const std::vector<ChartedSae>& saes, const std::string& figure) {
  return std::all_of(saes.begin(), saes.end(), [&](const ChartedSae& charted) {
    const Curve* curve = charted.sae->curves.find(figure);
    return curve == nullptr || curve->is_constant();
  });
}

/// Whether values are positive (zeros aside, which a warm-up begins with) and far apart.
bool wants_log(const std::vector<ChartSeries>& series) {
  double least = std::numeric_limits<double>::infinity(), most = 0;
  for (const ChartSeries& one : series) {
    for (const auto& [tokens, value] : one.points) {
      if (value <= 0) return false;
      least = std::min(least, value);
      most = std::max(most, value);
    }
  }
  return most > kLogRatio * least;
}

std::string number_text(double value) {
  return value == std::floor(value) && std::abs(value) < 1e9 ? fmt::format("{:.0f}", value)
                                                             : fmt::format("{:.4g}", value);
}

}  // namespace

std::vector<LineChart> training_charts(const std::vector<ChartedSae>& saes) {
  std::vector<LineChart> charts;
  for (const std::string& figure : figures_of(saes)) {
    if (is_constant(saes, figure)) continue;
    LineChart chart;
    chart.title = figure;
    chart.x = {"training tokens"};
    chart.y = {known(figure).explanation};
    for (const ChartedSae& charted : saes) {
      const Curve* curve = charted.sae->curves.find(figure);
      if (curve != nullptr) {
        chart.series.push_back({charted.label, charted.index, curve->points()});
      }
    }
    chart.y.is_log = known(figure).may_be_log && wants_log(chart.series);
    charts.push_back(std::move(chart));
  }
  return charts;
}

std::string constant_figures(const std::vector<ChartedSae>& saes) {
  std::string out;
  for (const std::string& figure : figures_of(saes)) {
    if (!is_constant(saes, figure)) continue;
    for (const ChartedSae& charted : saes) {
      const Curve* curve = charted.sae->curves.find(figure);
      if (curve == nullptr) continue;
      out += fmt::format("{}{} {} ({})", out.empty() ? "" : ", ", figure,
                         number_text(curve->last()), charted.label);
    }
  }
  return out;
}

std::vector<LineChart> held_out_charts(const std::vector<ChartedSae>& saes) {
  LineChart chart;
  chart.title = "fvu";
  chart.x = {"training tokens"};
  chart.y = {"on held-out text, at checkpoints"};
  for (const ChartedSae& charted : saes) {
    if (!charted.sae->held_out_fvu.empty()) {
      chart.series.push_back({charted.label, charted.index, charted.sae->held_out_fvu});
    }
  }
  if (chart.series.empty()) return {};
  return {chart};
}

std::vector<HistogramChart> density_charts(const std::vector<ChartedSae>& saes) {
  const auto counts_of = [](const Json& histogram) {
    std::vector<std::int64_t> counts;
    for (const Json& count : histogram.at("counts").as_array()) counts.push_back(count.as_int());
    return counts;
  };
  std::vector<HistogramChart> charts;
  for (const ChartedSae& charted : saes) {
    const Json& evaluation = charted.sae->evaluation;
    const Json* histogram = evaluation.is_null() ? nullptr : evaluation.find("density_histogram");
    if (histogram == nullptr || !histogram->is_object()) continue;
    HistogramChart chart;
    chart.title = charted.label;
    chart.y_label = "latents";
    chart.x_label = "log10 of the part of tokens where a latent fires";
    chart.index = charted.index;
    for (const Json& edge : histogram->at("log10_edges").as_array()) {
      chart.edges.push_back(edge.as_double());
    }
    chart.counts = counts_of(*histogram);
    chart.silent = histogram->at("silent").as_int();
    if (chart.edges.size() != chart.counts.size() + 1) continue;
    const Json* baselines = evaluation.find("baselines");
    const Json* untrained = baselines == nullptr ? nullptr : baselines->find("untrained");
    const Json* its = untrained == nullptr ? nullptr : untrained->find("density_histogram");
    if (its != nullptr && its->at("counts").as_array().size() == chart.counts.size()) {
      chart.reference = counts_of(*its);
      chart.reference_name = "untrained";
    }
    charts.push_back(std::move(chart));
  }
  return charts;
}

std::int64_t values_per_point(const std::vector<ChartedSae>& saes) {
  std::int64_t most = 1;
  for (const ChartedSae& charted : saes) {
    for (const auto& [name, curve] : charted.sae->curves.figures) {
      most = std::max(most, curve.values_per_point());
    }
  }
  return most;
}

}  // namespace thresher::evaluation
