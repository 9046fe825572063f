#pragma once

#include <string>
#include <vector>

#include "core/json.h"

namespace thresher::evaluation {

/// How a figure of evaluation.json is written and read.
struct MetricColumn {
  enum class Better { kLess, kMore, kNeither };
  std::string name;   // its key in evaluation.json
  std::string label;  // over the column
  std::string unit;
  int decimals = 3;
  Better better = Better::kNeither;
};

/// The columns of a page's or a terminal's table of metrics, most telling first.
const std::vector<MetricColumn>& metric_columns();

/// A figure with `decimals`, thousands apart: "16,250"; "–" for null or what is no number.
std::string figure_text(const Json* value, int decimals);
/// Why a figure is missing, where `figures` say it ("ce_not_measured"); empty otherwise.
std::string why_missing(const Json& figures, const std::string& metric);

}  // namespace thresher::evaluation
