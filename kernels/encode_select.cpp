#include "kernels/encode_select.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <limits>
#include <numeric>
#include <string_view>

#include "core/error.h"
#include "kernels/detail/backends.h"
#include "kernels/detail/screen.h"
#include "kernels/detail/topk_order.h"
#include "kernels/parallel.h"

namespace thresher::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Candidates beyond k that a row gathers before it is cut down to k: few cuts, short lists.
constexpr std::int64_t kSpareCandidates = 96;

void check_shape(const EncoderProduct& product) {
  THRESHER_CHECK(product.rows >= 0 && product.d >= 1 && product.n_latents >= 0,
                 "the shape of an encoder product");
  THRESHER_CHECK(product.n_latents <= std::numeric_limits<std::int32_t>::max(),
                 "a latent's index fits 32 bits");
}

void check_k(std::int64_t k, std::int64_t n_latents) {
  if (k >= 1 && k <= n_latents) return;
  throw InternalError(
      fmt::format("encode_select: k = {}, expected 1 <= k <= n_latents = {}", k, n_latents));
}

/// Counts what is not a number; a row belongs to one thread.
class CountingTaker : public detail::Screen::Taker {
 public:
  using Found = detail::Screen::Found;

  void start(std::int64_t rows) { not_numbers_.assign(static_cast<std::size_t>(rows), 0); }
  std::int64_t not_numbers() const {
    return std::accumulate(not_numbers_.begin(), not_numbers_.end(), std::int64_t{0});
  }
  bool is_number(const Found& found) {
    if (found.z == found.z) return true;
    ++not_numbers_[static_cast<std::size_t>(found.row)];
    return false;
  }

 private:
  std::vector<std::int64_t> not_numbers_;
};

/// The k best candidates of every row.
class BestOfRows final : public CountingTaker {
 public:
  void start(std::int64_t rows, std::int64_t k) {
    CountingTaker::start(rows);
    k_ = k;
    rows_.resize(std::max(rows_.size(), static_cast<std::size_t>(rows)));
    for (std::int64_t r = 0; r < rows; ++r) rows_[static_cast<std::size_t>(r)].clear();
  }

  void take(const Found& found, float& row_bound) override {
    if (!is_number(found)) return;
    Entries& entries = rows_[static_cast<std::size_t>(found.row)];
    entries.push_back(detail::topk_entry(found.z, static_cast<std::uint32_t>(found.latent)));
    if (static_cast<std::int64_t>(entries.size()) < k_ + kSpareCandidates) return;
    cut(entries);
    row_bound = std::max(row_bound, detail::topk_value(entries[static_cast<std::size_t>(k_ - 1)]));
  }

  bool is_reached(std::int64_t row, float bound) override {
    std::int64_t found = 0;
    for (const std::uint64_t entry : rows_[static_cast<std::size_t>(row)]) {
      found += detail::topk_value(entry) >= bound ? 1 : 0;
    }
    return found >= k_;
  }

  /// `latents` says which latents the product's were; null: the same.
  void finish(std::int64_t rows, const TopKSlots& slots, const std::int32_t* latents) {
    detail::parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        finish_row(rows_[static_cast<std::size_t>(r)], latents, slots.values + r * k_,
                   slots.indices + r * k_);
      }
    });
  }

 private:
  using Entries = std::vector<std::uint64_t>;

  void cut(Entries& entries) const {
    if (static_cast<std::int64_t>(entries.size()) <= k_) return;
    std::nth_element(entries.begin(), entries.begin() + (k_ - 1), entries.end(), std::greater<>());
    entries.resize(static_cast<std::size_t>(k_));
  }

  void finish_row(Entries& entries, const std::int32_t* latents, float* values,
                  std::int32_t* indices) const {
    cut(entries);
    std::sort(entries.begin(), entries.end(), std::greater<>());
    const auto found = static_cast<std::int64_t>(entries.size());
    for (std::int64_t j = 0; j < k_; ++j) {
      indices[j] = 0;
      values[j] = 0;
      if (j >= found) continue;
      const std::uint64_t entry = entries[static_cast<std::size_t>(j)];
      indices[j] = detail::topk_index(entry);
      if (latents != nullptr) indices[j] = latents[indices[j]];
      values[j] = detail::topk_value(entry);
    }
  }

  std::int64_t k_ = 0;
  std::vector<Entries> rows_;
};

/// Everything that reaches the bounds.
class ListsOfRows final : public CountingTaker {
 public:
  void start(std::int64_t rows) {
    CountingTaker::start(rows);
    rows_.resize(std::max(rows_.size(), static_cast<std::size_t>(rows)));
    for (std::int64_t r = 0; r < rows; ++r) rows_[static_cast<std::size_t>(r)].clear();
  }

  void take(const Found& found, float& /*row_bound*/) override {
    if (!is_number(found)) return;
    rows_[static_cast<std::size_t>(found.row)].push_back({found.latent, found.z});
  }
  bool is_reached(std::int64_t /*row*/, float /*bound*/) override { return true; }

  void finish(std::int64_t rows, SelectedPairs& pairs) {
    pairs.row_offsets.assign(1, 0);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::size_t count = rows_[static_cast<std::size_t>(r)].size();
      pairs.row_offsets.push_back(pairs.row_offsets.back() + static_cast<std::int64_t>(count));
    }
    pairs.values.resize(static_cast<std::size_t>(pairs.row_offsets.back()));
    pairs.indices.resize(pairs.values.size());
    detail::parallel_for(rows, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        auto place = static_cast<std::size_t>(pairs.row_offsets[static_cast<std::size_t>(r)]);
        for (const Pair& pair : rows_[static_cast<std::size_t>(r)]) {
          pairs.indices[place] = pair.latent;
          pairs.values[place++] = pair.z;
        }
      }
    });
  }

 private:
  struct Pair {
    std::int32_t latent;
    float z;
  };
  std::vector<std::vector<Pair>> rows_;
};

}  // namespace

Screening default_screening() {
  const char* wanted = std::getenv("THRESHER_SCREENING");
  const std::string_view name = wanted == nullptr ? "auto" : wanted;
  if (name == "auto") return Screening::kAuto;
  if (name == "on") return Screening::kOn;
  if (name == "off") return Screening::kOff;
  throw ConfigError(fmt::format("THRESHER_SCREENING={}: unknown choice", name), "auto, on or off");
}

struct EncodeSelect::Workspace {
  Workspace(CpuIsa isa, Screening screening) : screen(isa, screening) {}
  std::int64_t topk(const EncoderProduct& product, const TopKSlots& slots,
                    const std::int32_t* latents);
  std::int64_t above(const EncoderProduct& product, float bound, const float* bounds,
                     SelectedPairs& pairs);
  /// Of the latents where the mask is not zero; does nothing where it is null.
  void topk_masked(const EncoderProduct& product, const std::uint8_t* mask,
                   const TopKSlots* masked);

  detail::Screen screen;
  BestOfRows best;
  ListsOfRows lists;
  std::vector<std::int32_t> open;
  std::vector<float> W_open, b_open;
};

std::int64_t EncodeSelect::Workspace::topk(const EncoderProduct& product, const TopKSlots& slots,
                                           const std::int32_t* latents) {
  best.start(product.rows, slots.k);
  screen.run(product, slots.k, -kInfinity, nullptr, best);
  best.finish(product.rows, slots, latents);
  return best.not_numbers();
}

std::int64_t EncodeSelect::Workspace::above(const EncoderProduct& product, float bound,
                                            const float* bounds, SelectedPairs& pairs) {
  lists.start(product.rows);
  screen.run(product, 0, bound, bounds, lists);
  lists.finish(product.rows, pairs);
  return lists.not_numbers();
}

void EncodeSelect::Workspace::topk_masked(const EncoderProduct& product, const std::uint8_t* mask,
                                          const TopKSlots* masked) {
  if (mask == nullptr) return;
  open.clear();
  b_open.clear();
  for (std::int32_t j = 0; j < product.n_latents; ++j) {
    if (mask[j] == 0) continue;
    open.push_back(j);
    b_open.push_back(product.b_enc[j]);
  }
  W_open.resize(open.size() * static_cast<std::size_t>(product.d));
  for (std::size_t i = 0; i < open.size(); ++i) {
    std::copy_n(product.W_enc + open[i] * product.d, product.d,
                W_open.data() + i * static_cast<std::size_t>(product.d));
  }
  EncoderProduct part = product;
  part.n_latents = static_cast<std::int64_t>(open.size());
  part.W_enc = W_open.data();
  part.b_enc = b_open.data();
  topk(part, *masked, open.data());
}

EncodeSelect::EncodeSelect(CpuIsa isa, Screening screening)
    : workspace_(std::make_unique<Workspace>(isa, screening)) {}
EncodeSelect::~EncodeSelect() = default;
EncodeSelect::EncodeSelect(EncodeSelect&&) noexcept = default;
EncodeSelect& EncodeSelect::operator=(EncodeSelect&&) noexcept = default;

void EncodeSelect::check(const EncoderProduct& product, const std::uint8_t* mask,
                         const TopKSlots* masked) const {
  check_shape(product);
  THRESHER_CHECK((mask == nullptr) == (masked == nullptr), "a mask and a place for its pairs");
  if (mask == nullptr) return;
  detail::check_open_columns(masked->k,
                             product.n_latents - std::count(mask, mask + product.n_latents, 0),
                             product.n_latents);
}

std::int64_t EncodeSelect::topk(const EncoderProduct& product, const TopKSlots& slots,
                                const std::uint8_t* mask, const TopKSlots* masked) {
  check(product, mask, masked);
  check_k(slots.k, product.n_latents);
  const std::int64_t not_numbers = workspace_->topk(product, slots, nullptr);
  workspace_->topk_masked(product, mask, masked);
  return not_numbers;
}

std::int64_t EncodeSelect::above(const EncoderProduct& product, const float* bounds,
                                 SelectedPairs& pairs) {
  check_shape(product);
  return workspace_->above(product, -kInfinity, bounds, pairs);
}

std::int64_t EncodeSelect::above(const EncoderProduct& product, float bound, SelectedPairs& pairs,
                                 const std::uint8_t* mask, const TopKSlots* masked) {
  check(product, mask, masked);
  const std::int64_t not_numbers = workspace_->above(product, bound, nullptr, pairs);
  workspace_->topk_masked(product, mask, masked);
  return not_numbers;
}

}  // namespace thresher::kernels
