#include "evaluation/metric_columns.h"

#include <fmt/format.h>

#include <cmath>

namespace thresher::evaluation {

const std::vector<MetricColumn>& metric_columns() {
  using Better = MetricColumn::Better;
  static const std::vector<MetricColumn> columns = {
      {"fvu", "fvu", "", 4, Better::kLess},
      {"l0", "l0", "latents", 1, Better::kLess},
      {"ce_recovered_mean", "ce recovered", "of mean ablation", 4, Better::kMore},
      {"ce_recovered_zero", "ce recovered", "of zero ablation", 4, Better::kMore},
      {"ce_spliced", "ce spliced", "nats", 3, Better::kLess},
      {"kl_divergence", "kl", "nats", 3, Better::kLess},
      {"dead_fraction", "dead", "of latents", 4, Better::kLess},
      {"dense_fraction", "dense", "of latents", 4, Better::kLess},
      {"n_latents", "latents", "", 0, Better::kNeither},
  };
  return columns;
}

std::string figure_text(const Json* value, int decimals) {
  if (value == nullptr || !value->is_number()) return "–";
  const std::string plain = fmt::format("{:.{}f}", value->as_double(), decimals);
  const std::size_t point = std::min(plain.find('.'), plain.size());
  std::string out;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    const bool begins_group = i > 0 && i < point && (point - i) % 3 == 0 && plain[i - 1] != '-';
    if (begins_group) out += ',';
    out += plain[i];
  }
  return out;
}

std::string why_missing(const Json& figures, const std::string& metric) {
  const Json* value = figures.find(metric);
  if (value != nullptr && value->is_number()) return {};
  const bool needs_model = metric.starts_with("ce_") || metric == "kl_divergence";
  const Json* reason = figures.find("ce_not_measured");
  if (needs_model && reason != nullptr && reason->is_string()) return reason->as_string();
  return {};
}

}  // namespace thresher::evaluation
