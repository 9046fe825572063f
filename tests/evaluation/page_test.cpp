#include "evaluation/page.h"

#include <gtest/gtest.h>

#include <cmath>

#include "evaluation/chart.h"
#include "evaluation/chart_axis.h"
#include "evaluation/html.h"
#include "evaluation/metric_columns.h"
#include "evaluation/run_curves.h"
#include "evaluation/text_table.h"

namespace thresher::evaluation {
namespace {

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
    ++count;
  return count;
}

TEST(HtmlTest, TextCannotBecomeMarkup) {
  EXPECT_EQ(html_text("<b title='x'>\"a\" & b</b>"),
            "&lt;b title=&#39;x&#39;&gt;&quot;a&quot; &amp; b&lt;/b&gt;");
  EXPECT_EQ(html_text(std::string_view("\0\xff", 2)), "\\x00\\xff");
}

TEST(HtmlTest, DataCannotEndItsScript) {
  const Json value = Json::object({{"</script><!--", "\u2028&\u2029]]>"}});
  const std::string text = html_json(value);
  EXPECT_EQ(text, "{\"\\u003c/script\\u003e\\u003c!--\":\"\\u2028\\u0026\\u2029]]\\u003e\"}");
  EXPECT_EQ(Json::parse(text, "data"), value);
}

TEST(HtmlTest, HashesAreThoseOfTheContentSecurityPolicy) {
  EXPECT_EQ(csp_hash(""), "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='");
  EXPECT_EQ(csp_hash("abc"), "'sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0='");
}

TEST(AxisTest, TicksAreRoundAndCoverTheValues) {
  const AxisScale scale = make_scale({}, {0.02, 0.97}, 5);
  EXPECT_EQ(scale.low, 0);
  EXPECT_EQ(scale.ticks, (std::vector<double>{0, 0.5, 1}));
  const AxisScale narrow = make_scale({}, {0.9, 0.95}, 5);
  EXPECT_GT(narrow.low, 0.89);
  EXPECT_EQ(narrow.ticks.size(), 3U);  // 0.9, 0.92, 0.94
  EXPECT_NEAR(narrow.ticks[1], 0.92, 1e-12);
}

TEST(AxisTest, LogarithmsNeedPositiveValues) {
  ChartAxis axis;
  axis.is_log = true;
  const AxisScale scale = make_scale(axis, {1, 1000}, 5);
  EXPECT_TRUE(scale.is_log);
  EXPECT_EQ(scale.ticks, (std::vector<double>{1, 10, 100, 1000}));
  EXPECT_NEAR(scale.place(std::sqrt(scale.low * scale.high)), 0.5, 1e-12);
  EXPECT_FALSE(make_scale(axis, {0, 1000}, 5).is_log);
}

TEST(AxisTest, StandsOnNoValuesEqualValuesAndValuesThatAreNoNumbers) {
  for (const std::vector<double>& values :
       {std::vector<double>{}, {0}, {7, 7}, {-3}, {NAN, INFINITY}, {1e308, -1e308}, {NAN, 2, 3}}) {
    for (const bool is_log : {false, true}) {
      const AxisScale scale = make_scale({"", is_log}, values, 5);
      EXPECT_LT(scale.low, scale.high);
      EXPECT_LE(scale.ticks.size(), 12U);
      for (const double value : values) {
        if (!is_drawable(value)) continue;
        EXPECT_GE(scale.place(value), 0);
        EXPECT_LE(scale.place(value), 1);
      }
    }
  }
}

TEST(AxisTest, WritesNumbersShort) {
  EXPECT_EQ(axis_number(0), "0");
  EXPECT_EQ(axis_number(250000), "250k");
  EXPECT_EQ(axis_number(1.5e6), "1.5M");
  EXPECT_EQ(axis_number(0.05), "0.05");
  EXPECT_EQ(axis_number(2e-5), "2e-05");
  EXPECT_EQ(axis_number(-6), "-6");
}

TEST(ParetoTest, KeepsWhatNobodyBeatsInBothDirections) {
  const std::vector<std::pair<double, double>> points = {{32, 0.25}, {64, 0.20}, {64, 0.22},
                                                         {16, 0.40}, {40, 0.30}, {NAN, 0.0}};
  EXPECT_EQ(pareto_front(points, true, true), (std::vector<std::size_t>{3, 0, 1}));
  EXPECT_EQ(pareto_front(points, true, false), (std::vector<std::size_t>{3}));
  EXPECT_EQ(pareto_front(points, false, true), (std::vector<std::size_t>{1}));
  EXPECT_TRUE(pareto_front({}, true, true).empty());
}

TEST(ChartTest, BreaksLinesWhereThereIsNoValue) {
  LineChart chart;
  chart.series.push_back({"a", 0, {{0, 1}, {1, NAN}, {2, 3}, {3, 4}}});
  const Figure figure = draw(chart, 3);
  EXPECT_EQ(count_of(figure.html, "M"), 2U);
  EXPECT_EQ(count_of(figure.html, "<circle"), 1U);  // the lone first point
  EXPECT_EQ(count_of(figure.html, "nan"), 0U);
  EXPECT_NE(figure.html.find("data-chart=\"3\""), std::string::npos);
  EXPECT_EQ(figure.readout.at("series").as_array()[0].at("points").as_array().size(), 3U);
}

TEST(ChartTest, NamesAreTextInEveryChart) {
  const std::string hostile = "</title><script>alert(1)</script>";
  LineChart line;
  line.title = hostile;
  line.series.push_back({hostile, 0, {{0, 1}, {1, 2}}});
  ScatterChart scatter;
  scatter.x.label = scatter.y.label = hostile;
  scatter.points.push_back({hostile, 0, 1, 1});
  HistogramChart bars;
  bars.title = bars.x_label = bars.reference_name = hostile;
  bars.edges = {-1, 0};
  bars.counts = bars.reference = {4};
  HeatMapChart map;
  map.title = map.row_label = map.column_label = map.value_label = hostile;
  map.rows = map.columns = {hostile};
  map.values = {1};
  for (const Figure& figure : {draw(line, 0), draw(scatter, 0), draw(bars), draw(map)}) {
    EXPECT_EQ(figure.html.find("<script"), std::string::npos);
    EXPECT_NE(figure.html.find("&lt;script&gt;"), std::string::npos);
  }
}

TEST(ChartTest, LabelsOfPointsThatLieTogetherDoNotCoverEachOther) {
  ScatterChart chart;
  for (int i = 0; i < 30; ++i) chart.points.push_back({"label", 0, 32, 0.25});
  chart.points.push_back({"far", 0, 64, 0.5});
  const std::string html = draw(chart, 0).html;
  EXPECT_LT(count_of(html, ">label</text>"), 9U);
  EXPECT_EQ(count_of(html, ">far</text>"), 1U);
  EXPECT_EQ(count_of(html, "<circle"), 31U);
}

TEST(HeatMapTest, EveryCellSaysWhatItIs) {
  HeatMapChart map;
  map.title = "effect";
  map.row_label = "layer";
  map.column_label = "token";
  map.rows = {"0", "1"};
  map.columns = {" a", "\x1b", "c"};
  map.values = {0, -2, 4, NAN, 1, -0.001};
  const Figure figure = draw(map);
  EXPECT_TRUE(figure.readout.is_null());
  const std::string& html = figure.html;
  EXPECT_NE(html.find("<title>layer 0, token \\x1b: -2</title>"), std::string::npos) << html;
  EXPECT_NE(html.find("<title>layer 1, token c: -0.001</title>"), std::string::npos);
  EXPECT_NE(html.find("<title>layer 1, token  a: no value</title><rect class=\"empty\""),
            std::string::npos);
  EXPECT_EQ(count_of(html, "<g><title>"), 6U);
  EXPECT_EQ(count_of(html, "\">-2.00</text>"), 1U);
  EXPECT_EQ(count_of(html, "\">0.00</text>"), 2U);  // 0 and -0.001, without a sign
  EXPECT_EQ(count_of(html, "style="), 0U);          // the page's policy forbids it
}

TEST(HeatMapTest, ColoursAreEvenAboutZeroAndEndAtTheLimit) {
  HeatMapChart map;
  map.rows = {"0"};
  map.columns = {"a", "b", "c", "d"};
  map.values = {-4, 4, 0, 2};
  const auto fills = [](const std::string& html) {
    std::vector<std::string> out;
    for (std::size_t at = html.find("<g><title>"); at != std::string::npos;
         at = html.find("<g><title>", at + 1)) {
      out.push_back(html.substr(html.find("fill=\"", at) + 6, 7));
    }
    return out;
  };
  EXPECT_EQ(fills(draw(map).html),
            (std::vector<std::string>{"#08306b", "#7f2704", "#f7f7f7", "#eb7b36"}));
  map.limit = 2;
  EXPECT_EQ(fills(draw(map).html),
            (std::vector<std::string>{"#08306b", "#7f2704", "#f7f7f7", "#7f2704"}));
  map.limit = 0;
  map.is_diverging = false;
  EXPECT_EQ(fills(draw(map).html),
            (std::vector<std::string>{"#f7fbff", "#08306b", "#6baed6", "#2171b5"}));
}

TEST(HeatMapTest, StandsOnManyNoAndOddCells) {
  HeatMapChart map;
  EXPECT_NE(draw(map).html.find("<svg"), std::string::npos);
  map.columns.assign(200, "a long name of a column");
  for (int i = 0; i < 200; ++i) map.values.push_back(i * 1e-6);
  map.rows = {"row"};
  const std::string html = draw(map).html;
  EXPECT_NE(html.find("class=\"chart wide\""), std::string::npos);
  EXPECT_EQ(count_of(html, "class=\"cell"), 0U);  // too narrow for values
  map.columns = {"a", "b"};
  map.values = {INFINITY, 1e308};
  EXPECT_EQ(count_of(draw(map).html, "inf"), 0U);
}

TEST(CurveTest, ThinsLongRunsByAveragingNeighbours) {
  Curve curve;
  for (int i = 1; i <= 1000; ++i) curve.add(i, 2.0 * i);
  EXPECT_EQ(curve.values_per_point(), 4);
  const auto points = curve.points();
  ASSERT_EQ(points.size(), 250U);
  EXPECT_EQ(points[0], (std::pair<double, double>{2.5, 5}));
  EXPECT_EQ(points[249], (std::pair<double, double>{998.5, 1997}));
  EXPECT_EQ(curve.last(), 2000);
  EXPECT_FALSE(curve.is_constant());
}

TEST(CurveTest, KeepsShortRunsAsTheyAre) {
  Curve curve;
  for (std::size_t i = 0; i < kMostCurvePoints; ++i) curve.add(static_cast<double>(i), 1);
  EXPECT_EQ(curve.values_per_point(), 1);
  EXPECT_EQ(curve.points().size(), kMostCurvePoints);
  EXPECT_TRUE(curve.is_constant());
}

TEST(FigureTextTest, GroupsThousandsAndShowsWhatIsMissing) {
  const Json tokens = 1234567, small = -1234.5, none;
  EXPECT_EQ(figure_text(&tokens, 0), "1,234,567");
  EXPECT_EQ(figure_text(&small, 2), "-1,234.50");
  EXPECT_EQ(figure_text(&none, 2), "–");
  EXPECT_EQ(figure_text(nullptr, 2), "–");
}

TEST(TextTableTest, CellsStayInTheirColumns) {
  EXPECT_EQ(text_table({{"sae", "fvu"}, {"a|b\n\x1b[2J", "0.25"}, {"\u00e4", "–"}}),
            "| sae           |  fvu |\n"
            "| ------------- | ---: |\n"
            "| a\\|b\\n\\x1b[2J | 0.25 |\n"
            "| \u00e4             |    – |\n");
}

TEST(PageTest, IsTheSameBytesForTheSameCallsAndFetchesNothing) {
  const auto make = [] {
    Page page("run <1>", "done", "sub & title");
    page.add_heading("Metrics");
    page.add_table({{{"SAE", "", false}, {"fvu"}},
                    {{PageRow::Kind::kNormal, {{"a<b"}, {"0.25", "why \"so\"", true}}}}});
    LineChart chart;
    chart.series.push_back({"a", 0, {{0, 1}, {1, 2}}});
    page.add_charts(std::vector{chart, chart});
    return page.html();
  };
  const std::string html = make();
  EXPECT_EQ(html, make());
  EXPECT_NE(html.find("<title>run &lt;1&gt;</title>"), std::string::npos);
  EXPECT_NE(html.find("<td class=\"n best\" title=\"why &quot;so&quot;\">0.25</td>"),
            std::string::npos);
  EXPECT_NE(html.find("data-chart=\"1\""), std::string::npos);
  EXPECT_NE(html.find("default-src 'none'"), std::string::npos);
  for (const char* fetching : {"http://", "src=", "href=", "@import", "url("}) {
    const std::size_t at = html.find(fetching);
    const bool is_namespace =
        at != std::string::npos && html.substr(at).starts_with("http://www.w3.org/2000/svg");
    EXPECT_TRUE(at == std::string::npos || is_namespace) << fetching;
  }
}

}  // namespace
}  // namespace thresher::evaluation
