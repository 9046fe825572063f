#pragma once

#include <string>
#include <vector>

#include "evaluation/chart.h"
#include "evaluation/run_record.h"

namespace thresher::evaluation {

/// One SAE in the charts of a page.
struct ChartedSae {
  std::string label;
  std::size_t index = 0;  // decides colour and dashes
  const SaeRecord* sae = nullptr;
};

/// A chart a figure of metrics.jsonl, the most telling first; figures that never change are left
/// out. A loss or a norm that spans more than a factor of 20 has a logarithmic axis.
std::vector<LineChart> training_charts(const std::vector<ChartedSae>& saes);

/// "aux_loss 0, l1_coefficient 5 (relu_l1)": the figures that training_charts leaves out. Empty
/// without any.
std::string constant_figures(const std::vector<ChartedSae>& saes);

/// Held-out fvu of checkpoints; nothing when no SAE has a curve.json.
std::vector<LineChart> held_out_charts(const std::vector<ChartedSae>& saes);

/// Densities of the latents, one chart an SAE that was evaluated, the untrained SAE as an outline.
std::vector<HistogramChart> density_charts(const std::vector<ChartedSae>& saes);

/// The most values that a point of any of the curves stands for; 1 when nothing was averaged.
std::int64_t values_per_point(const std::vector<ChartedSae>& saes);

}  // namespace thresher::evaluation
