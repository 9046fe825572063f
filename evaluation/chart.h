#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"

namespace thresher::evaluation {

/// Charts as inline SVG for pages (evaluation/page.h). They need no script: a page's script only
/// adds a read-out under the pointer, from `readout`. Texts are any bytes; they are escaped here.

/// Colours and dashes of the n-th series: CSS classes "c0" ... "c7" and "d0" ... "d2", which differ
/// for the first 24.
std::string series_classes(std::size_t index);

struct ChartAxis {
  std::string label;  // "fvu", "tokens"
  /// Logarithmic if true and all values are positive; linear otherwise.
  bool is_log = false;
  /// A linear axis starts at 0 unless that would waste more than half of it.
  bool wants_zero = true;
};

struct ChartSeries {
  std::string name;
  std::size_t index = 0;  // decides colour and dashes
  /// Ascending in x. A value that is not finite breaks the line.
  std::vector<std::pair<double, double>> points;
};

/// One line a series; a series with a single point is a dot.
struct LineChart {
  std::string title;
  ChartAxis x, y;
  std::vector<ChartSeries> series;
};

struct ScatterPoint {
  std::string label;
  std::size_t index = 0;
  double x = 0, y = 0;
};

/// Labelled points, and the line through those that no other point beats in both directions.
struct ScatterChart {
  std::string title;
  ChartAxis x, y;
  bool is_less_better_x = true, is_less_better_y = true;
  std::vector<ScatterPoint> points;
};

/// Bars between edges, `silent` as a bar of its own at the left.
struct HistogramChart {
  std::string title;
  std::string x_label, y_label;
  std::size_t index = 0;
  std::vector<double> edges;  // ascending, one more than counts
  std::vector<std::int64_t> counts;
  std::int64_t silent = 0;
  /// Drawn as an outline for comparison; empty or as many as counts.
  std::vector<std::int64_t> reference;
  std::string reference_name;
};

/// A cell a value, coloured by it: light to dark blue from the lowest to the highest value, or,
/// about 0, blue for what is negative and orange for what is positive. Both differ in lightness or
/// in a pair of hues that colour-blind readers tell apart. Every cell has row, column and value as
/// a tooltip, and the value in it where all values fit.
struct HeatMapChart {
  std::string title;
  std::string row_label, column_label;     // what rows and columns are: "layer", "position"
  std::string value_label;                 // "nats"
  std::vector<std::string> rows, columns;  // names, from the top and from the left
  std::vector<double> values;  // [rows, columns]; a cell whose value is not finite is empty
  bool is_diverging = true;
  /// Where colours end: values beyond it look like it. 0: at the value of largest magnitude.
  double limit = 0;
};

/// The markup of a chart, and what a script needs to read values from it: {"plot": [left, top,
/// right, bottom] in the SVG's coordinates, "x" and "y": {"label", "low", "high", "log"}, "series":
/// [{"name", "index", "points": [[x, y], ...]}], "is_scatter"}. Null for a histogram and a heat
/// map, whose bars and cells carry their numbers.
struct Figure {
  std::string html;  // <figure class="chart"> ... </figure>, with NUMBER in data-chart if readout
  Json readout;
};
Figure draw(const LineChart& chart, std::size_t number);
Figure draw(const ScatterChart& chart, std::size_t number);
Figure draw(const HistogramChart& chart);
Figure draw(const HeatMapChart& chart);

/// Indices of the points that no other point beats in both directions, in the order of x. Points
/// that are not finite are never among them.
std::vector<std::size_t> pareto_front(const std::vector<std::pair<double, double>>& points,
                                      bool is_less_better_x, bool is_less_better_y);

/// 12345678 as "12.3M", 0.00012 as "1.2e-4": what stands at an axis.
std::string axis_number(double value);

}  // namespace thresher::evaluation
