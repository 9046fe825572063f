#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "evaluation/chart.h"
#include "evaluation/chart_axis.h"
#include "evaluation/chart_svg.h"
#include "evaluation/html.h"

namespace thresher::evaluation {
namespace {

/// Where bars stand: one slot a bin; the silent, who have no frequency, two slots apart at the
/// left.
class Bars {
 public:
  explicit Bars(const HistogramChart& chart) : chart_(chart) {
    std::int64_t most = std::max<std::int64_t>(1, chart.silent);
    for (const std::int64_t count : chart.counts) most = std::max(most, count);
    for (const std::int64_t count : chart.reference) most = std::max(most, count);
    y_ = make_scale({chart.y_label}, {0.0, static_cast<double>(most)}, 6);
    const double n_slots = static_cast<double>(chart.counts.size()) + (chart.silent > 0 ? 2 : 0);
    slot_ = (kPlotRight - kPlotLeft) / std::max(1.0, n_slots);
    first_ = kPlotLeft + (chart.silent > 0 ? 2 * slot_ : 0);
  }

  std::string grid() const {
    std::string out;
    for (const double tick : y_.ticks) {
      out +=
          svg_line("grid", kPlotLeft, y(tick), kPlotRight, y(tick)) + svg_left_tick(y(tick), tick);
    }
    return out;
  }

  std::string bars() const {
    std::string out;
    if (chart_.silent > 0) {
      out += bar(kPlotLeft, chart_.silent, "silent", "bar silent");
      out += svg_bottom_tick(kPlotLeft + slot_ / 2, "silent");
    }
    for (std::size_t i = 0; i < chart_.counts.size(); ++i) {
      out += bar(
          edge(i), chart_.counts[i],
          fmt::format("{} to {}", axis_number(chart_.edges[i]), axis_number(chart_.edges[i + 1])),
          "bar");
    }
    return out;
  }

  std::string bottom() const {
    std::string out = svg_line("base", kPlotLeft, kPlotBottom, kPlotRight, kPlotBottom);
    for (std::size_t i = 0; i < chart_.edges.size(); ++i) {
      const double value = chart_.edges[i];
      if (value == std::floor(value)) out += svg_bottom_tick(edge(i), axis_number(value));
    }
    return out + svg_bottom_label(chart_.x_label);
  }

  std::string outline() const {
    if (chart_.reference.empty()) return {};
    std::string path = fmt::format("M{:.1f} {:.1f}", first_, kPlotBottom);
    for (std::size_t i = 0; i < chart_.reference.size(); ++i) {
      path +=
          fmt::format("V{:.1f}H{:.1f}", y(static_cast<double>(chart_.reference[i])), edge(i + 1));
    }
    return fmt::format(R"(<path class="outline" d="{}V{:.1f}"><title>{}</title></path>)", path,
                       kPlotBottom, html_text(chart_.reference_name));
  }

 private:
  double y(double count) const { return kPlotBottom - y_.place(count) * (kPlotBottom - kPlotTop); }
  double edge(std::size_t i) const { return first_ + slot_ * static_cast<double>(i); }

  std::string bar(double left, std::int64_t count, const std::string& range,
                  const char* kind) const {
    const double top = y(static_cast<double>(count));
    return fmt::format(
        R"(<rect class="{} {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">)"
        R"(<title>{}: {}</title></rect>)",
        kind, series_classes(chart_.index), left + 1, top, slot_ - 2, kPlotBottom - top, range,
        count);
  }

  const HistogramChart& chart_;
  AxisScale y_;
  double slot_ = 1, first_ = 0;
};

}  // namespace

Figure draw(const HistogramChart& chart) {
  THRESHER_CHECK(chart.edges.size() == chart.counts.size() + 1, "a histogram has an edge more");
  THRESHER_CHECK(chart.reference.empty() || chart.reference.size() == chart.counts.size(),
                 "the reference has the same bins");
  const Bars bars(chart);
  return {svg_figure(chart.title, chart.y_label,
                     bars.grid() + bars.bars() + bars.outline() + bars.bottom(), ""),
          Json()};
}

}  // namespace thresher::evaluation
