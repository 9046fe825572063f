#include "evaluation/page.h"

#include <fmt/format.h>

#include <utility>

#include "core/error.h"
#include "core/version.h"
#include "evaluation/html.h"
#include "evaluation/page_assets.h"

namespace thresher::evaluation {
namespace {

std::string pairs_html(const std::vector<std::pair<std::string, std::string>>& pairs) {
  std::string out = "<dl>";
  for (const auto& [name, value] : pairs) {
    out += fmt::format("<dt>{}</dt><dd>{}</dd>", html_text(name), html_text(value));
  }
  return out + "</dl>\n";
}

const char* class_of(PageRow::Kind kind) {
  switch (kind) {
    case PageRow::Kind::kBaseline:
      return "baseline";
    case PageRow::Kind::kGroup:
      return "group";
    case PageRow::Kind::kNormal:
      break;
  }
  return "normal";
}

std::string cell_html(const PageCell& cell, bool is_number) {
  std::string classes = is_number ? "n" : "";
  if (cell.is_best) classes += classes.empty() ? "best" : " best";
  return fmt::format("<td{}{}>{}</td>",
                     classes.empty() ? "" : fmt::format(R"( class="{}")", classes),
                     cell.note.empty() ? "" : fmt::format(R"( title="{}")", html_text(cell.note)),
                     html_text(cell.text));
}

}  // namespace

Page::Page(std::string title, std::string badge, std::string subtitle)
    : title_(std::move(title)), badge_(std::move(badge)), subtitle_(std::move(subtitle)) {}

void Page::add_heading(const std::string& text) {
  body_ += fmt::format("<h2>{}</h2>\n", html_text(text));
}

void Page::add_text(const std::string& text) {
  body_ += fmt::format("<p class=\"note\">{}</p>\n", html_text(text));
}

void Page::add_warning(const std::string& text) {
  body_ += fmt::format("<p class=\"warning\" role=\"note\">{}</p>\n", html_text(text));
}

void Page::add_table(const PageTable& table) {
  body_ += "<div class=\"scroll\"><table><thead><tr>";
  for (const PageColumn& column : table.columns) {
    body_ +=
        fmt::format("<th{} scope=\"col\">{}{}</th>", column.is_number ? " class=\"n\"" : "",
                    html_text(column.label),
                    column.unit.empty() ? "" : "<small>" + html_text(column.unit) + "</small>");
  }
  body_ += "</tr></thead><tbody>\n";
  for (const PageRow& row : table.rows) {
    body_ += fmt::format("<tr class=\"{}\">", class_of(row.kind));
    if (row.kind == PageRow::Kind::kGroup) {
      body_ += fmt::format("<td colspan=\"{}\">{}</td>", table.columns.size(),
                           html_text(row.cells.at(0).text));
    } else {
      THRESHER_CHECK(row.cells.size() == table.columns.size(), "a cell a column");
      for (std::size_t i = 0; i < row.cells.size(); ++i) {
        body_ += cell_html(row.cells[i], table.columns[i].is_number);
      }
    }
    body_ += "</tr>\n";
  }
  body_ += "</tbody></table></div>\n";
}

void Page::add_pairs(const std::vector<std::pair<std::string, std::string>>& pairs) {
  body_ += pairs_html(pairs);
}

void Page::add_folds(const std::vector<Fold>& folds) {
  body_ += "<div class=\"folds\">\n";
  for (const Fold& fold : folds) {
    body_ +=
        fmt::format("<details{}><summary>{}</summary>{}</details>\n", fold.is_open ? " open" : "",
                    html_text(fold.title), pairs_html(fold.pairs));
  }
  body_ += "</div>\n";
}

void Page::add_legend(const std::vector<std::pair<std::string, std::size_t>>& names) {
  body_ += "<ul class=\"legend\">";
  for (const auto& [name, index] : names) {
    body_ += fmt::format(
        R"(<li><svg viewBox="0 0 26 10" aria-hidden="true"><path class="series {}" d="M1 5L25 5"/></svg>{}</li>)",
        series_classes(index), html_text(name));
  }
  body_ += "</ul>\n";
}

void Page::begin_charts() { body_ += "<div class=\"charts\">\n"; }

void Page::add_figure(const Figure& figure) {
  body_ += figure.html + "\n";
  if (!figure.readout.is_null()) readouts_.push_back(figure.readout);
}

void Page::end_charts() { body_ += "</div>\n"; }

std::string Page::html() const {
  const std::string policy = fmt::format(
      "default-src 'none'; script-src {}; style-src {}; base-uri 'none'; form-action 'none'",
      csp_hash(kPageScript), csp_hash(kPageStyle));
  std::string out = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
  out += fmt::format("<meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\n", policy);
  out += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
  out += fmt::format("<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n",
                     html_text(title_), kPageStyle);
  out +=
      fmt::format("<h1>{}{}</h1>\n", html_text(title_),
                  badge_.empty() ? "" : "<span class=\"badge\">" + html_text(badge_) + "</span>");
  if (!subtitle_.empty())
    out += fmt::format("<p class=\"subtitle\">{}</p>\n", html_text(subtitle_));
  out += body_;
  out += fmt::format("<footer>Thresher {}</footer>\n</main>\n", kVersion);
  out += fmt::format("<script type=\"application/json\" id=\"data\">{}</script>\n",
                     html_json(readouts_));
  return out + fmt::format("<script>{}</script>\n</body>\n</html>\n", kPageScript);
}

}  // namespace thresher::evaluation
