#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "core/error.h"
#include "core/visible_text.h"
#include "evaluation/chart.h"
#include "evaluation/chart_axis.h"
#include "evaluation/chart_svg.h"
#include "evaluation/html.h"

namespace thresher::evaluation {
namespace {

struct Colour {
  double red, green, blue;
  double luminance() const { return (0.299 * red + 0.587 * green + 0.114 * blue) / 255; }
};

// Stops of ColorBrewer's "Blues", and of "Blues" and "Oranges" back to back.
constexpr std::array<Colour, 5> kSequential = {
    {{247, 251, 255}, {198, 219, 239}, {107, 174, 214}, {33, 113, 181}, {8, 48, 107}}};
constexpr std::array<Colour, 7> kDiverging = {{{8, 48, 107},
                                               {33, 113, 181},
                                               {158, 202, 225},
                                               {247, 247, 247},
                                               {253, 174, 107},
                                               {217, 72, 1},
                                               {127, 39, 4}}};

constexpr double kTop = 10, kRowHeight = 20, kLetter = 6.4, kCellLetter = 6.2;
constexpr double kWidePlot = 960, kLeastCell = 15, kMostCell = 72;
constexpr double kKeyWidth = 160, kKeyHeight = 10;
constexpr std::size_t kLongestName = 22;
constexpr int kKeySteps = 32;

Colour blend(std::span<const Colour> stops, double place) {
  const double at = std::clamp(place, 0.0, 1.0) * static_cast<double>(stops.size() - 1);
  const std::size_t low = std::min(stops.size() - 2, static_cast<std::size_t>(at));
  const double part = at - static_cast<double>(low);
  const auto mix = [part](double a, double b) { return a + part * (b - a); };
  const Colour &a = stops[low], &b = stops[low + 1];
  return {mix(a.red, b.red), mix(a.green, b.green), mix(a.blue, b.blue)};
}

double longest(const std::vector<std::string>& names) {
  std::size_t letters = 0;
  for (const std::string& name : names) letters = std::max(letters, display_width(name));
  return kLetter * static_cast<double>(letters);
}

std::vector<std::string> short_names(const std::vector<std::string>& names) {
  std::vector<std::string> out;
  for (const std::string& name : names) out.push_back(svg_shortened(name, kLongestName));
  return out;
}

/// Where cells stand and how they look.
class HeatMap {
 public:
  explicit HeatMap(const HeatMapChart& chart)
      : chart_(chart), rows_(short_names(chart.rows)), columns_(short_names(chart.columns)) {
    find_range();
    const double n_columns = std::max(1.0, static_cast<double>(columns_.size()));
    left_ = 14 + longest(rows_) + (chart.row_label.empty() ? 0 : 18);
    cell_ = std::clamp(kWidePlot / n_columns, kLeastCell, kMostCell);
    is_turned_ = longest(columns_) + 6 > cell_;
    bottom_ = kTop + kRowHeight * static_cast<double>(rows_.size());
    const double needed = left_ + cell_ * n_columns + 12;
    // A figure fills the page's width: a drawing much narrower would be blown up.
    width_ = needed <= kChartWidth ? kChartWidth : std::max(needed, kWidePlot);
    key_top_ = bottom_ + 12 + (is_turned_ ? 0.8 * longest(columns_) + 8 : 14) +
               (chart.column_label.empty() ? 6 : 24);
    shows_values_ = widest_value() * kCellLetter + 4 <= cell_;
  }

  Figure figure() const {
    return {svg_figure(chart_.title, chart_.value_label, cells() + names() + key(), "", width_,
                       key_top_ + kKeyHeight + 22),
            Json()};
  }

 private:
  void find_range() {
    double most = 0;
    bool has_value = false;
    for (const double value : chart_.values) {
      if (!is_drawable(value)) continue;
      low_ = has_value ? std::min(low_, value) : value;
      high_ = has_value ? std::max(high_, value) : value;
      most = std::max(most, std::abs(value));
      has_value = true;
    }
    const double limit = chart_.limit > 0 ? chart_.limit : most;
    if (chart_.is_diverging) {
      low_ = -limit;
      high_ = limit;
    } else if (chart_.limit > 0) {
      high_ = std::min(high_, limit);
    }
    if (!(low_ < high_)) high_ = low_ + 1;
    decimals_ = most >= 100 ? 0 : most >= 10 ? 1 : most >= 0.1 || most == 0 ? 2 : -1;
  }

  Colour colour(double value) const {
    const double place = (value - low_) / (high_ - low_);
    return chart_.is_diverging ? blend(kDiverging, place) : blend(kSequential, place);
  }

  std::string short_value(double value) const {
    if (decimals_ < 0) return fmt::format("{:.1e}", value);
    const std::string text = fmt::format("{:.{}f}", value, decimals_);
    const bool is_zero = text.find_first_not_of("-0.") == std::string::npos;
    return is_zero && text[0] == '-' ? text.substr(1) : text;
  }

  double widest_value() const {
    std::size_t widest = 0;
    for (const double value : chart_.values) {
      if (is_drawable(value)) widest = std::max(widest, short_value(value).size());
    }
    return static_cast<double>(widest);
  }

  std::string rectangle(double x, double y, double width, double height, double value) const {
    const Colour fill = colour(value);
    return fmt::format(
        R"(<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="#{:02x}{:02x}{:02x}"/>)",
        x, y, width, height, std::lround(fill.red), std::lround(fill.green),
        std::lround(fill.blue));
  }

  std::string cell(std::size_t row, std::size_t column) const {
    const double value = chart_.values[row * columns_.size() + column];
    const double x = left_ + cell_ * static_cast<double>(column);
    const double y = kTop + kRowHeight * static_cast<double>(row);
    const bool has_value = is_drawable(value);
    std::string out = fmt::format("<g><title>{} {}, {} {}: {}</title>", html_text(chart_.row_label),
                                  html_text(chart_.rows[row]), html_text(chart_.column_label),
                                  html_text(chart_.columns[column]),
                                  has_value ? fmt::format("{:.5g}", value) : "no value");
    if (!has_value) {
      return out + fmt::format(R"(<rect class="empty" x="{:.1f}" y="{:.1f}" width="{:.1f}" )"
                               R"(height="{:.1f}"/></g>)",
                               x + 1, y + 1, cell_ - 2, kRowHeight - 2);
    }
    out += rectangle(x + 0.5, y + 0.5, cell_ - 1, kRowHeight - 1, value);
    if (shows_values_) {
      out += svg_text(colour(value).luminance() > 0.55 ? "cell dark" : "cell light", x + cell_ / 2,
                      y + 14, short_value(value));
    }
    return out + "</g>";
  }

  std::string cells() const {
    std::string out;
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      for (std::size_t column = 0; column < columns_.size(); ++column) out += cell(row, column);
    }
    return out;
  }

  std::string names() const {
    std::string out;
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      out += svg_text("tick end", left_ - 5, kTop + kRowHeight * static_cast<double>(row) + 14,
                      html_escape(rows_[row]));
    }
    for (std::size_t column = 0; column < columns_.size(); ++column) {
      const double x = left_ + cell_ * (static_cast<double>(column) + 0.5);
      const std::string name = html_escape(columns_[column]);
      out += is_turned_ ? fmt::format(R"svg(<text class="tick end" transform="translate({:.1f} )svg"
                                      R"svg({:.1f}) rotate(-55)">{}</text>)svg",
                                      x + 4, bottom_ + 12, name)
                        : svg_text("tick mid", x, bottom_ + 15, name);
    }
    if (!chart_.column_label.empty()) {
      out += svg_text("label mid", left_ + cell_ * static_cast<double>(columns_.size()) / 2,
                      key_top_ - 10, html_text(chart_.column_label));
    }
    if (!chart_.row_label.empty()) {
      out += fmt::format(R"svg(<text class="label mid" transform="translate(12 {:.1f}) )svg"
                         R"svg(rotate(-90)">{}</text>)svg",
                         (kTop + bottom_) / 2, html_text(chart_.row_label));
    }
    return out;
  }

  /// What the colours mean.
  std::string key() const {
    std::string out;
    for (int step = 0; step < kKeySteps; ++step) {
      const double value = low_ + (high_ - low_) * (step + 0.5) / kKeySteps;
      out += rectangle(left_ + kKeyWidth * step / kKeySteps, key_top_, kKeyWidth / kKeySteps + 0.3,
                       kKeyHeight, value);
    }
    const double y = key_top_ + kKeyHeight + 15;
    const auto number = [](double value) { return fmt::format("{:.3g}", value); };
    out += svg_text("tick mid", left_, y, number(low_)) +
           svg_text("tick mid", left_ + kKeyWidth, y, number(high_));
    if (chart_.is_diverging) out += svg_text("tick mid", left_ + kKeyWidth / 2, y, "0");
    return out;
  }

  const HeatMapChart& chart_;
  std::vector<std::string> rows_, columns_;  // as they are shown
  double low_ = 0, high_ = 0;
  int decimals_ = 0;  // of a value in its cell; -1: with an exponent
  double left_ = 0, cell_ = 0, bottom_ = 0, key_top_ = 0, width_ = 0;
  bool is_turned_ = false, shows_values_ = false;
};

}  // namespace

Figure draw(const HeatMapChart& chart) {
  THRESHER_CHECK(chart.values.size() == chart.rows.size() * chart.columns.size(),
                 "a heat map has a value a cell");
  return HeatMap(chart).figure();
}

}  // namespace thresher::evaluation
