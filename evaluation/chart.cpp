#include "evaluation/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/visible_text.h"
#include "evaluation/chart_axis.h"
#include "evaluation/chart_svg.h"
#include "evaluation/html.h"

namespace thresher::evaluation {
namespace {

constexpr std::size_t kColours = 8, kDashes = 3;
constexpr double kLetterWidth = 6.4, kLabelHeight = 13;
constexpr std::size_t kLongestLabel = 28;

/// The plane of one chart: axes, grid and where a value falls.
class Plane {
 public:
  Plane(const ChartAxis& x, const ChartAxis& y, const std::vector<std::pair<double, double>>& all)
      : x_axis_(x), y_axis_(y) {
    std::vector<double> xs, ys;
    for (const auto& [point_x, point_y] : all) {
      if (!is_drawable(point_x) || !is_drawable(point_y)) continue;
      xs.push_back(point_x);
      ys.push_back(point_y);
    }
    x_ = make_scale(x, xs, 6);
    y_ = make_scale(y, ys, 6);
  }

  double x(double value) const { return kPlotLeft + x_.place(value) * (kPlotRight - kPlotLeft); }
  double y(double value) const { return kPlotBottom - y_.place(value) * (kPlotBottom - kPlotTop); }

  std::string grid() const {
    std::string out;
    for (const double tick : y_.minor_ticks) {
      out += svg_line("minor", kPlotLeft, y(tick), kPlotRight, y(tick));
    }
    for (const double tick : y_.ticks) {
      out +=
          svg_line("grid", kPlotLeft, y(tick), kPlotRight, y(tick)) + svg_left_tick(y(tick), tick);
    }
    for (const double tick : x_.ticks) {
      out += svg_line("grid", x(tick), kPlotBottom, x(tick), kPlotBottom + 4) +
             svg_bottom_tick(x(tick), axis_number(tick));
    }
    return out + svg_line("base", kPlotLeft, kPlotBottom, kPlotRight, kPlotBottom) +
           svg_bottom_label(x_axis_.label);
  }

  Json readout(std::size_t number) const {
    const auto axis = [](const ChartAxis& description, const AxisScale& scale) {
      return Json::object({{"label", visible_text(description.label)},
                           {"low", scale.low},
                           {"high", scale.high},
                           {"log", scale.is_log}});
    };
    return Json::object(
        {{"number", static_cast<std::int64_t>(number)},
         {"width", kChartWidth},
         {"plot", Json::array_of(std::vector{kPlotLeft, kPlotTop, kPlotRight, kPlotBottom})},
         {"x", axis(x_axis_, x_)},
         {"y", axis(y_axis_, y_)},
         {"series", Json::array()}});
  }

 private:
  ChartAxis x_axis_, y_axis_;
  AxisScale x_, y_;
};

Json readout_points(const std::vector<std::pair<double, double>>& points) {
  Json out = Json::array();
  for (const auto& [x, y] : points) {
    if (is_drawable(x) && is_drawable(y)) out.push_back(Json::array({Json(x), Json(y)}));
  }
  return out;
}

std::string draw_series(const ChartSeries& series, const Plane& plane) {
  std::string path;
  std::size_t n_in_piece = 0;
  std::string dots;
  double last_x = 0, last_y = 0;
  const auto end_piece = [&] {
    if (n_in_piece == 1) {
      dots += fmt::format(R"(<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"/>)",
                          series_classes(series.index), last_x, last_y);
    }
    n_in_piece = 0;
  };
  for (const auto& [x, y] : series.points) {
    if (!is_drawable(x) || !is_drawable(y)) {
      end_piece();
      continue;
    }
    last_x = plane.x(x);
    last_y = plane.y(y);
    path += fmt::format("{}{:.1f} {:.1f}", n_in_piece == 0 ? "M" : "L", last_x, last_y);
    ++n_in_piece;
  }
  end_piece();
  if (path.empty()) return {};
  return fmt::format(R"(<path class="series {}" d="{}"><title>{}</title></path>)",
                     series_classes(series.index), path, html_text(series.name)) +
         dots;
}

struct Box {
  double left, top, right, bottom;
  bool meets(const Box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};

/// Puts labels beside points where they cover neither points nor each other; a label without such a
/// place is left out (the point keeps it as its title).
class Labels {
 public:
  void block(double x, double y) { taken_.push_back({x - 5, y - 5, x + 5, y + 5}); }

  std::string place(const std::string& label, double x, double y) {
    const std::string text = svg_shortened(label, kLongestLabel);
    const double width = kLetterWidth * static_cast<double>(display_width(text));
    struct Offset {
      double x, y;
    };
    const Offset offsets[] = {{8, 4},           {-8 - width, 4},  {-width / 2, -9},
                              {-width / 2, 18}, {8, -7},          {8, 15},
                              {-8 - width, -7}, {-8 - width, 15}, {12 - width, -11},
                              {12 - width, 20}, {-12, -11},       {-12, 20}};
    for (const Offset& offset : offsets) {
      const double left = x + offset.x, baseline = y + offset.y;
      const Box box{left, baseline - kLabelHeight + 3, left + width, baseline + 3};
      if (box.left < kPlotLeft || box.right > kChartWidth || box.top < 0 ||
          box.bottom > kPlotBottom)
        continue;
      if (std::any_of(taken_.begin(), taken_.end(),
                      [&](const Box& other) { return box.meets(other); })) {
        continue;
      }
      taken_.push_back(box);
      return svg_text("point", left, baseline, html_escape(text));
    }
    return {};
  }

 private:
  std::vector<Box> taken_;
};

}  // namespace

std::string series_classes(std::size_t index) {
  return fmt::format("c{} d{}", index % kColours, index / kColours % kDashes);
}

std::vector<std::size_t> pareto_front(const std::vector<std::pair<double, double>>& points,
                                      bool is_less_better_x, bool is_less_better_y) {
  const double sign_x = is_less_better_x ? 1 : -1, sign_y = is_less_better_y ? 1 : -1;
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (is_drawable(points[i].first) && is_drawable(points[i].second)) order.push_back(i);
  }
  // Best in x first; of equals the better in y, so that it alone can be on the front.
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(sign_x * points[a].first, sign_y * points[a].second) <
           std::pair(sign_x * points[b].first, sign_y * points[b].second);
  });
  std::vector<std::size_t> front;
  for (const std::size_t i : order) {
    if (front.empty() || sign_y * points[i].second < sign_y * points[front.back()].second) {
      front.push_back(i);
    }
  }
  if (!is_less_better_x) std::reverse(front.begin(), front.end());
  return front;
}

Figure draw(const LineChart& chart, std::size_t number) {
  std::vector<std::pair<double, double>> all;
  for (const ChartSeries& series : chart.series) {
    all.insert(all.end(), series.points.begin(), series.points.end());
  }
  const Plane plane(chart.x, chart.y, all);
  Json readout = plane.readout(number);
  readout["is_scatter"] = false;
  std::string content = plane.grid();
  for (const ChartSeries& series : chart.series) {
    content += draw_series(series, plane);
    readout["series"].push_back(Json::object({{"name", visible_text(series.name)},
                                              {"index", static_cast<std::int64_t>(series.index)},
                                              {"points", readout_points(series.points)}}));
  }
  return {
      svg_figure(chart.title, chart.y.label, content, fmt::format(R"( data-chart="{}")", number)),
      readout};
}

Figure draw(const ScatterChart& chart, std::size_t number) {
  std::vector<std::pair<double, double>> all;
  for (const ScatterPoint& point : chart.points) all.emplace_back(point.x, point.y);
  const Plane plane(chart.x, chart.y, all);
  Json readout = plane.readout(number);
  readout["is_scatter"] = true;
  std::string content = plane.grid();

  const std::vector<std::size_t> front =
      pareto_front(all, chart.is_less_better_x, chart.is_less_better_y);
  std::string path;
  for (const std::size_t i : front) {
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", plane.x(all[i].first),
                        plane.y(all[i].second));
  }
  if (front.size() > 1) content += fmt::format(R"(<path class="front" d="{}"/>)", path);

  Labels labels;
  std::string texts;
  for (const auto& [x, y] : all) {
    if (is_drawable(x) && is_drawable(y)) labels.block(plane.x(x), plane.y(y));
  }
  for (const ScatterPoint& point : chart.points) {
    if (!is_drawable(point.x) || !is_drawable(point.y)) continue;
    content += fmt::format(
        R"(<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}</title></circle>)",
        series_classes(point.index), plane.x(point.x), plane.y(point.y), html_text(point.label));
    texts += labels.place(point.label, plane.x(point.x), plane.y(point.y));
    readout["series"].push_back(Json::object({{"name", visible_text(point.label)},
                                              {"index", static_cast<std::int64_t>(point.index)},
                                              {"points", readout_points({{point.x, point.y}})}}));
  }
  return {svg_figure(chart.title, chart.y.label, content + texts,
                     fmt::format(R"( data-chart="{}")", number)),
          readout};
}

}  // namespace thresher::evaluation
