#pragma once

#include <string>
#include <vector>

#include "evaluation/chart.h"

namespace thresher::evaluation {

/// Where values of one direction fall, from `low` (0) to `high` (1).
struct AxisScale {
  double low = 0, high = 1;
  bool is_log = false;
  /// Where a label stands, and light lines without one.
  std::vector<double> ticks, minor_ticks;

  /// 0 at `low`, 1 at `high`; outside where the value is.
  double place(double value) const;
};

/// Whether a value can stand in a chart: neither NaN nor infinite, nor so large that a difference
/// overflows.
bool is_drawable(double value);

/// A scale that shows all drawable `values`; [0, 1] without any. At most about `most_ticks`
/// labels.
AxisScale make_scale(const ChartAxis& axis, const std::vector<double>& values, int most_ticks);

}  // namespace thresher::evaluation
