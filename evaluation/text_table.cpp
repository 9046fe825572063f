#include "evaluation/text_table.h"

#include <algorithm>

#include "core/error.h"
#include "core/visible_text.h"

namespace thresher::evaluation {
namespace {

std::string safe_cell(const std::string& text) {
  std::string out;
  for (const char c : visible_text(text)) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::string text_table(std::vector<std::vector<std::string>> lines, std::size_t n_left) {
  std::vector<std::size_t> widths(lines.at(0).size(), 0);
  for (auto& line : lines) {
    THRESHER_CHECK(line.size() == widths.size(), "every line of a table has as many cells");
    for (std::size_t i = 0; i < line.size(); ++i) {
      line[i] = safe_cell(line[i]);
      widths[i] = std::max(widths[i], display_width(line[i]));
    }
  }
  std::string out;
  for (std::size_t row = 0; row < lines.size(); ++row) {
    out += '|';
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const std::string& cell = lines[row][i];
      const std::string space(widths[i] - display_width(cell), ' ');
      out += ' ' + (i < n_left ? cell + space : space + cell) + " |";
    }
    out += '\n';
    if (row > 0) continue;
    out += '|';
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const std::string rule(std::max<std::size_t>(widths[i], 1) - (i < n_left ? 0 : 1), '-');
      out += ' ' + rule + (i < n_left ? " |" : ": |");
    }
    out += '\n';
  }
  return out;
}

}  // namespace thresher::evaluation
