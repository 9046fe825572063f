#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <span>
#include <utility>

#include "activation_cache/own_activations.h"
#include "core/error.h"
#include "core/hash.h"

namespace thresher::activation_cache {

namespace {

constexpr std::int64_t kScanRows = std::int64_t{1} << 18;

// Different keys, so that block 7 and document 7 have nothing to do with each other.
constexpr std::uint64_t kDocumentKey = 0x646f63756d656e74;
constexpr std::uint64_t kBlockKey = 0x626c6f636b;

/// The number in [0, 1) that decides on which side a document stands.
double split_draw(std::int32_t document, std::uint64_t key) {
  const std::uint64_t hash = xxh3_64(std::as_bytes(std::span(&document, 1)), key);
  return std::ldexp(static_cast<double>(hash >> 11), -53);
}

}  // namespace

void OwnActivations::set_threshold() {
  threshold_ = config_.held_out_fraction;
  if (threshold_ <= 0) return;
  const std::uint64_t key = document_ids_ ? kDocumentKey : kBlockKey;
  double smallest = 2;
  std::int64_t rows_of_smallest = 0;
  std::vector<std::int32_t> documents;
  for (std::int64_t first = 0; first < n_rows_; first += kScanRows) {
    documents.resize(static_cast<std::size_t>(std::min(kScanRows, n_rows_ - first)));
    read_documents(first, documents);
    for (const std::int32_t document : documents) {
      const double draw = split_draw(document, key);
      if (draw < threshold_) ++n_held_out_;
      if (draw < smallest) rows_of_smallest = 0;
      smallest = std::min(smallest, draw);
      if (draw == smallest) ++rows_of_smallest;
    }
  }
  // A small set of rows may have nothing below the fraction; figures need some.
  if (n_held_out_ == 0) {
    threshold_ = std::nextafter(smallest, 1.0);
    n_held_out_ = rows_of_smallest;
  }
  if (n_held_out_ < n_rows_) return;
  if (n_rows_ == 1) {
    throw ConfigError(
        fmt::format("activations.held_out_fraction: {} leaves no rows for training: there is one "
                    "row in all",
                    config_.held_out_fraction),
        "at least two rows");
  }
  throw ConfigError(
      fmt::format("activations.held_out_fraction: {} leaves no rows for training: all {} {}",
                  config_.held_out_fraction, n_rows_,
                  document_ids_ ? "belong to held-out documents" : "stand in held-out blocks"),
      "rows on both sides",
      document_ids_ ? "give more documents, or set it to 0"
                    : "lower activations.held_out_block_rows");
}

bool OwnActivations::is_held_out(std::int32_t document) const {
  return split_draw(document, document_ids_ ? kDocumentKey : kBlockKey) < threshold_;
}

std::vector<std::int64_t> OwnActivations::held_out_rows(std::int64_t most) const {
  std::map<std::int32_t, std::int64_t> counts;  // of held-out documents
  std::vector<std::int32_t> documents;
  const auto for_each_held_out = [&](const auto& visit) {
    for (std::int64_t first = 0; first < n_rows_; first += kScanRows) {
      documents.resize(static_cast<std::size_t>(std::min(kScanRows, n_rows_ - first)));
      read_documents(first, documents);
      for (std::size_t i = 0; i < documents.size(); ++i) {
        if (is_held_out(documents[i])) visit(first + static_cast<std::int64_t>(i), documents[i]);
      }
    }
  };
  for_each_held_out([&](std::int64_t, std::int32_t document) { ++counts[document]; });
  std::vector<std::pair<double, std::int32_t>> order;
  for (const auto& [document, count] : counts) {
    order.emplace_back(split_draw(document, document_ids_ ? kDocumentKey : kBlockKey), document);
  }
  std::sort(order.begin(), order.end());
  std::map<std::int32_t, std::int64_t> wanted;  // rows to take of each
  for (const auto& [draw, document] : order) {
    if (most <= 0) break;
    wanted[document] = std::min(most, counts[document]);
    most -= wanted[document];
  }
  std::vector<std::int64_t> rows;
  for_each_held_out([&](std::int64_t row, std::int32_t document) {
    const auto found = wanted.find(document);
    if (found == wanted.end() || found->second == 0) return;
    --found->second;
    rows.push_back(row);
  });
  return rows;
}

}  // namespace thresher::activation_cache
