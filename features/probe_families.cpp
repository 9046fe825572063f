#include "features/probe_families.h"

#include <ATen/ATen.h>

#include <map>

#include "core/random.h"

namespace thresher::features {
namespace {

/// Relative frequencies of the tokens that occur in enough training documents.
Family token_family(const std::vector<ProbeSet>& sets) {
  std::map<std::int32_t, std::int64_t> n_documents;
  for (const auto& counts : sets[0].pooled.token_counts) {
    for (const auto& [id, count] : counts) ++n_documents[id];
  }
  Family family{"tokens", {}, {}};
  std::map<std::int32_t, std::int64_t> columns;
  for (const auto& [id, n] : n_documents) {
    if (n < kLeastTokenDocuments) continue;
    columns.emplace(id, static_cast<std::int64_t>(columns.size()));
    family.feature_numbers.push_back(id);
  }
  const auto width = static_cast<std::int64_t>(columns.size());
  for (const ProbeSet& set : sets) {
    const auto n = static_cast<std::int64_t>(set.pooled.token_counts.size());
    at::Tensor values = at::zeros({n, width}, at::kFloat);
    for (std::int64_t row = 0; row < n; ++row) {
      const auto place = static_cast<std::size_t>(row);
      for (const auto& [id, count] : set.pooled.token_counts[place]) {
        const auto column = columns.find(id);
        if (column == columns.end()) continue;
        values.data_ptr<float>()[row * width + column->second] = static_cast<float>(
            static_cast<double>(count) / static_cast<double>(set.pooled.n_tokens[place]));
      }
    }
    family.values.push_back(std::move(values));
  }
  return family;
}

}  // namespace

Families make_families(const std::vector<ProbeSet>& sets) {
  Families out{{"sae", {}, {}},
               {"untrained", {}, {}},
               {"raw", {}, {}},
               {"layer 0", {}, {}},
               token_family(sets)};
  for (const ProbeSet& set : sets) {
    out.sae.values.push_back(set.pooled.latents);
    out.untrained.values.push_back(set.pooled.untrained);
    out.raw.values.push_back(set.pooled.raw);
    out.embedded.values.push_back(set.pooled.embedded);
  }
  return out;
}

at::Tensor random_directions(std::int64_t n, std::int64_t d, std::uint64_t seed,
                             std::string_view purpose) {
  const RandomStream random(seed, purpose);
  at::Tensor out = at::empty({n, d}, at::kFloat);
  for (std::int64_t i = 0; i < n * d; ++i) {
    out.data_ptr<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return out / out.norm(2, 1, /*keepdim=*/true);
}

std::vector<double> column_scores(const at::Tensor& values, std::int64_t column) {
  const at::Tensor one = values.select(1, column).to(at::kDouble).contiguous();
  return {one.const_data_ptr<double>(), one.const_data_ptr<double>() + one.numel()};
}

std::vector<double> projections(const at::Tensor& values, const at::Tensor& vector, double sign) {
  const at::Tensor out =
      (sign * at::mv(values.to(at::kDouble), vector.to(at::kDouble))).contiguous();
  return {out.const_data_ptr<double>(), out.const_data_ptr<double>() + out.numel()};
}

}  // namespace thresher::features
