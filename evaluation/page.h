#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "evaluation/chart.h"

namespace thresher::evaluation {

struct PageColumn {
  std::string label;
  std::string unit = {};  // "nats", "tokens/s"; under the label
  bool is_number = true;
};

struct PageCell {
  std::string text;
  std::string note = {};  // why there is no figure, or more digits; shown as a tooltip
  bool is_best = false;
};

struct PageRow {
  enum class Kind { kNormal, kBaseline, kGroup } kind = Kind::kNormal;
  std::vector<PageCell> cells;  // one a column; kGroup has one for all
};

struct PageTable {
  std::vector<PageColumn> columns;
  std::vector<PageRow> rows;
};

/// One self-contained HTML file: no network, no outside script, style or font, and a content
/// security policy that forbids them. Everything is there without a script; the script adds a
/// read-out of values under the pointer. Light or dark as the reader's system is. All texts may be
/// hostile bytes: they are shown, never interpreted. The same calls give the same bytes.
class Page {
 public:
  /// `badge` is a word beside the title, "done"; may be empty.
  Page(std::string title, std::string badge, std::string subtitle);

  void add_heading(const std::string& text);
  void add_text(const std::string& text);
  /// A box that cannot be overlooked.
  void add_warning(const std::string& text);
  void add_table(const PageTable& table);
  /// Names and values in two columns.
  void add_pairs(const std::vector<std::pair<std::string, std::string>>& pairs);
  /// Several such lists, each behind a line that opens and closes, in columns as the window allows.
  struct Fold {
    std::string title;
    std::vector<std::pair<std::string, std::string>> pairs;
    bool is_open = true;
  };
  void add_folds(const std::vector<Fold>& folds);
  /// Colours and their names, for the charts that follow.
  void add_legend(const std::vector<std::pair<std::string, std::size_t>>& names);
  /// Charts side by side as the window allows.
  template <class Chart>
  void add_charts(const std::vector<Chart>& charts) {
    begin_charts();
    for (const Chart& chart : charts) add_figure(draw_next(chart));
    end_charts();
  }

  /// The file's bytes.
  std::string html() const;

 private:
  Figure draw_next(const LineChart& chart) const { return draw(chart, n_figures()); }
  Figure draw_next(const ScatterChart& chart) const { return draw(chart, n_figures()); }
  Figure draw_next(const HistogramChart& chart) const { return draw(chart); }
  Figure draw_next(const HeatMapChart& chart) const { return draw(chart); }
  std::size_t n_figures() const { return readouts_.as_array().size(); }
  void begin_charts();
  void add_figure(const Figure& figure);
  void end_charts();

  std::string title_, badge_, subtitle_, body_;
  Json readouts_ = Json::array();
};

}  // namespace thresher::evaluation
