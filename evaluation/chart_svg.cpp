#include "evaluation/chart_svg.h"

#include <fmt/format.h>

#include "core/visible_text.h"
#include "evaluation/chart.h"
#include "evaluation/html.h"

namespace thresher::evaluation {

std::string svg_line(const char* kind, double x1, double y1, double x2, double y2) {
  return fmt::format(R"(<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>)", kind,
                     x1, y1, x2, y2);
}

std::string svg_text(const char* kind, double x, double y, const std::string& content) {
  return fmt::format(R"(<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>)", kind, x, y, content);
}

std::string svg_shortened(const std::string& bytes, std::size_t letters) {
  std::string out;
  for (const char c : visible_text(bytes)) {
    const bool begins_character = (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
    if (begins_character && display_width(out) == letters) return out + "…";
    out += c;
  }
  return out;
}

std::string svg_left_tick(double y, double value) {
  return svg_text("tick end", kPlotLeft - 7, y + 4, axis_number(value));
}

std::string svg_bottom_tick(double x, const std::string& content) {
  return svg_text("tick mid", x, kPlotBottom + 18, content);
}

std::string svg_bottom_label(const std::string& label) {
  return svg_text("label mid", (kPlotLeft + kPlotRight) / 2, kChartHeight - 8, html_text(label));
}

std::string svg_figure(const std::string& title, const std::string& y_label,
                       const std::string& content, const std::string& attributes, double width,
                       double height) {
  return fmt::format(
      R"(<figure class="chart{}"{}><figcaption><b>{}</b> <span>{}</span></figcaption>)"
      R"(<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg></figure>)",
      width > kChartWidth ? " wide" : "", attributes, html_text(title), html_text(y_label), width,
      height, html_text(y_label.empty() ? title : title + ", " + y_label), content);
}

}  // namespace thresher::evaluation
