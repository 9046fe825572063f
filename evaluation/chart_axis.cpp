#include "evaluation/chart_axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace thresher::evaluation {
namespace {

/// The least of 1, 2, 5 times a power of ten that is not below `step`.
double round_step(double step) {
  const double power = std::pow(10.0, std::floor(std::log10(step)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (step <= factor * power * (1 + 1e-9)) return factor * power;
  }
  return 10 * power;
}

void fill_linear(AxisScale& scale, int most_ticks) {
  const double step = round_step((scale.high - scale.low) / std::max(1, most_ticks));
  const double first = std::ceil(scale.low / step - 1e-9);
  for (int i = 0; i < 4 * most_ticks; ++i) {
    // A product, not a running sum: 0.30000000000000004 would be written out.
    const double tick = (first + i) * step;
    if (tick > scale.high + 1e-9 * step) break;
    scale.ticks.push_back(std::abs(tick) < 1e-9 * step ? 0 : tick);
  }
}

void fill_log(AxisScale& scale, int most_ticks) {
  const int first = static_cast<int>(std::floor(std::log10(scale.low) + 1e-9));
  const int last = static_cast<int>(std::ceil(std::log10(scale.high) - 1e-9));
  const double decades = std::log10(scale.high / scale.low);
  const int every = (last - first + most_ticks - 1) / most_ticks;
  for (int exponent = first; exponent <= last; ++exponent) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * std::pow(10.0, exponent);
      if (tick < scale.low * (1 - 1e-9) || tick > scale.high * (1 + 1e-9)) continue;
      const bool is_decade = factor == 1.0 && (exponent - first) % every == 0;
      if (is_decade || 3 * decades <= most_ticks) {
        scale.ticks.push_back(tick);
      } else if (every == 1) {
        scale.minor_ticks.push_back(tick);
      }
    }
  }
}

}  // namespace

bool is_drawable(double value) { return std::abs(value) < 1e300; }

double AxisScale::place(double value) const {
  if (is_log) return std::log(value / low) / std::log(high / low);
  return (value - low) / (high - low);
}

AxisScale make_scale(const ChartAxis& axis, const std::vector<double>& values, int most_ticks) {
  AxisScale scale;
  bool is_empty = true;
  for (const double value : values) {
    if (!is_drawable(value)) continue;
    scale.low = is_empty ? value : std::min(scale.low, value);
    scale.high = is_empty ? value : std::max(scale.high, value);
    is_empty = false;
  }
  scale.is_log = axis.is_log && !is_empty && scale.low > 0;
  if (scale.is_log) {
    if (scale.high < scale.low * 1.2) {
      scale.low /= 1.5;
      scale.high *= 1.5;
    }
    const double margin = std::pow(scale.high / scale.low, 0.04);
    scale.low /= margin;
    scale.high *= margin;
    fill_log(scale, most_ticks);
    return scale;
  }
  const double spread = scale.high - scale.low;
  const double magnitude = std::max(std::abs(scale.low), std::abs(scale.high));
  if (axis.wants_zero && scale.low >= 0 && scale.low <= 0.5 * scale.high) {
    scale.low = 0;
    scale.high = magnitude > 0 ? 1.05 * magnitude : 1;
  } else if (spread <= 1e-9 * magnitude || spread == 0) {
    const double half = magnitude > 0 ? 0.5 * magnitude : 0.5;
    scale.low -= half;
    scale.high += half;
  } else {
    scale.low -= 0.05 * spread;
    scale.high += 0.05 * spread;
  }
  fill_linear(scale, most_ticks);
  return scale;
}

std::string axis_number(double value) {
  const double magnitude = std::abs(value);
  if (value == 0) return "0";
  if (magnitude >= 1e15 || magnitude < 1e-3) return fmt::format("{:.3g}", value);
  for (const auto& [unit, suffix] :
       {std::pair{1e12, "T"}, std::pair{1e9, "G"}, std::pair{1e6, "M"}, std::pair{1e3, "k"}}) {
    if (magnitude >= unit * (1 - 1e-12)) return fmt::format("{:.4g}{}", value / unit, suffix);
  }
  return fmt::format("{:.4g}", value);
}

}  // namespace thresher::evaluation
