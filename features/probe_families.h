#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "features/probing.h"

namespace thresher::features {

/// One kind of features of all sets.
struct Family {
  std::string name;
  std::vector<at::Tensor> values;             // [documents, features], one a set
  std::vector<std::int64_t> feature_numbers;  // of the columns, where they are not 0, 1, ...
  std::int64_t number(std::int64_t column) const {
    return feature_numbers.empty() ? column : feature_numbers[static_cast<std::size_t>(column)];
  }
};

/// What a probe can be made of.
struct Families {
  Family sae, untrained, raw, embedded, tokens;
};

/// In how many training documents a token occurs to be a feature.
inline constexpr std::int64_t kLeastTokenDocuments = 5;

/// The families of all sets; tokens are relative frequencies in a document.
Families make_families(const std::vector<ProbeSet>& sets);

/// n random unit vectors [n, d] float32.
at::Tensor random_directions(std::int64_t n, std::int64_t d, std::uint64_t seed,
                             std::string_view purpose);

/// One feature of every document of `values` [documents, features].
std::vector<double> column_scores(const at::Tensor& values, std::int64_t column);

/// sign times the product of every row of `values` with `vector` [features].
std::vector<double> projections(const at::Tensor& values, const at::Tensor& vector, double sign);

}  // namespace thresher::features
