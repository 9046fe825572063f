#include <fmt/format.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "evaluation/evaluation.h"
#include "evaluation/text_table.h"

namespace thresher::evaluation {
namespace {

struct Column {
  const char* name;
  int decimals;
};
constexpr const char* kNoCrossEntropy = "ce_not_measured";
constexpr std::array<Column, 10> kColumns = {{{"fvu", 3},
                                              {"l0", 1},
                                              {"ce_clean", 3},
                                              {"ce_spliced", 3},
                                              {"ce_zero_ablated", 3},
                                              {"ce_mean_ablated", 3},
                                              {"ce_recovered_zero", 3},
                                              {"ce_recovered_mean", 3},
                                              {"dead_fraction", 3},
                                              {"n_tokens", 0}}};

std::string cell(const Json* value, int decimals) {
  if (value == nullptr || value->is_null()) return "-";
  return fmt::format("{:.{}f}", value->as_double(), decimals);
}

/// Without a host model the columns of cross-entropy would be empty; a line below says why.
std::vector<Column> columns_of(const Json& evaluation) {
  std::vector<Column> columns;
  for (const Column& column : kColumns) {
    const bool is_cross_entropy = std::string_view(column.name).starts_with("ce_");
    if (is_cross_entropy && evaluation.find(kNoCrossEntropy) != nullptr) continue;
    columns.push_back(column);
  }
  return columns;
}

std::vector<std::string> line_of(const std::string& label, const Json& figures,
                                 const std::vector<Column>& columns,
                                 const Json* tokens_per_second) {
  std::vector<std::string> cells = {label};
  for (const Column& column : columns)
    cells.push_back(cell(figures.find(column.name), column.decimals));
  cells.push_back(cell(tokens_per_second, 0));
  return cells;
}

std::string baseline_label(const std::string& name, const Json& figures) {
  const Json* components = figures.find("n_components");
  return components == nullptr ? "- " + name
                               : fmt::format("- {} ({} components)", name, components->as_int());
}

}  // namespace

std::string evaluation_table(const Json& evaluation) {
  std::vector<std::vector<std::string>> lines(1, {"sae"});
  const std::vector<Column> columns = columns_of(evaluation);
  for (const Column& column : columns) {
    lines[0].emplace_back(std::string_view(column.name) == "n_tokens" ? "tokens" : column.name);
  }
  lines[0].emplace_back("tokens/s");
  const Json* timing = evaluation.find("timing");
  const Json* rates = timing == nullptr ? nullptr : timing->find("tokens_per_second");
  const auto rate_of = [rates](const std::string& name) {
    return rates == nullptr ? nullptr : rates->find(name);
  };
  for (const auto& [name, figures] : evaluation.at("candidates").as_object()) {
    lines.push_back(line_of(name, figures, columns, rate_of(name)));
    const Json* baselines = figures.find("baselines");
    if (baselines == nullptr) continue;
    for (const auto& [baseline, its_figures] : baselines->as_object()) {
      lines.push_back(line_of(baseline_label(baseline, its_figures), its_figures, columns,
                              rate_of(name + "/" + baseline)));
    }
  }
  std::string text = text_table(std::move(lines));
  if (const Json* reason = evaluation.find(kNoCrossEntropy)) {
    text += fmt::format("cross-entropy is not measured: {}\n", reason->as_string());
  }
  return text;
}

}  // namespace thresher::evaluation
