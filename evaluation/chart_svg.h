#pragma once

#include <cstddef>
#include <string>

namespace thresher::evaluation {

/// The coordinates that charts are drawn in; a page scales the whole.
inline constexpr double kChartWidth = 400, kChartHeight = 248;
inline constexpr double kPlotLeft = 48, kPlotRight = 390, kPlotTop = 12, kPlotBottom = 204;

/// `kind` is a CSS class.
std::string svg_line(const char* kind, double x1, double y1, double x2, double y2);
/// `content` is escaped already.
std::string svg_text(const char* kind, double x, double y, const std::string& content);
/// Any bytes made visible (core/visible_text.h), of more than `letters` the first of them and an
/// ellipsis.
std::string svg_shortened(const std::string& bytes, std::size_t letters);
/// A number beside the vertical axis, under the horizontal one, and that one's name.
std::string svg_left_tick(double y, double value);
std::string svg_bottom_tick(double x, const std::string& content);
std::string svg_bottom_label(const std::string& label);
/// <figure> around the drawing; `attributes` begins with a blank or is empty. A drawing that is
/// wider than kChartWidth gets the whole width of the page.
std::string svg_figure(const std::string& title, const std::string& y_label,
                       const std::string& content, const std::string& attributes,
                       double width = kChartWidth, double height = kChartHeight);

}  // namespace thresher::evaluation
