#include "evaluation/run_curves.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "trainer/run_directory.h"

namespace thresher::evaluation {
namespace {

SaeCurves& curves_of(std::vector<SaeCurves>& saes, const std::string& name) {
  for (SaeCurves& sae : saes) {
    if (sae.name == name) return sae;
  }
  saes.emplace_back();
  saes.back().name = name;
  return saes.back();
}

Curve& curve_of(SaeCurves& sae, const std::string& figure) {
  for (auto& [name, curve] : sae.figures) {
    if (name == figure) return curve;
  }
  sae.figures.emplace_back(figure, Curve());
  return sae.figures.back().second;
}

}  // namespace

void Curve::add(double tokens, double value) {
  const bool is_new = bins_.empty() || bins_.back().count == per_bin_;
  if (is_new && bins_.size() == kMostCurvePoints) {
    for (std::size_t i = 0; i < bins_.size() / 2; ++i) {
      const Bin &a = bins_[2 * i], &b = bins_[2 * i + 1];
      bins_[i] = {a.tokens + b.tokens, a.value + b.value, a.count + b.count};
    }
    bins_.resize(bins_.size() / 2);
    per_bin_ *= 2;
  }
  if (bins_.empty() || bins_.back().count == per_bin_) bins_.emplace_back();
  Bin& bin = bins_.back();
  bin.tokens += tokens;
  bin.value += value;
  ++bin.count;
  least_ = n_values_ == 0 ? value : std::min(least_, value);
  most_ = n_values_ == 0 ? value : std::max(most_, value);
  last_ = value;
  ++n_values_;
}

std::vector<std::pair<double, double>> Curve::points() const {
  std::vector<std::pair<double, double>> out;
  for (const Bin& bin : bins_) {
    const auto count = static_cast<double>(bin.count);
    out.emplace_back(bin.tokens / count, bin.value / count);
  }
  return out;
}

const Curve* SaeCurves::find(const std::string& figure) const {
  for (const auto& [its_name, curve] : figures) {
    if (its_name == figure) return &curve;
  }
  return nullptr;
}

std::vector<SaeCurves> read_metric_curves(const std::filesystem::path& path) {
  std::vector<SaeCurves> saes;
  trainer::for_each_json_line(path, [&](const Json& line, const std::string& where) {
    const std::string& name = line.at("sae").as_string(where + ": sae");
    const double tokens = line.at("tokens").as_double(where + ": tokens");
    SaeCurves& sae = curves_of(saes, name);
    sae.tokens = tokens;
    for (const auto& [figure, value] : line.as_object(where)) {
      if (figure == "step" || figure == "tokens") continue;
      if (value.is_number()) {
        curve_of(sae, figure).add(tokens, value.as_double());
      } else if (value.is_null()) {
        curve_of(sae, figure).add(tokens, std::numeric_limits<double>::quiet_NaN());
      }
    }
  });
  return saes;
}

}  // namespace thresher::evaluation
