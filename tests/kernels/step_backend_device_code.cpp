#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/detail/adam_element.h"
#include "kernels/detail/bfloat16_device.h"
#include "kernels/detail/column_sums_device.h"
#include "kernels/detail/decoder_norm_device.h"
#include "kernels/detail/encode_plan.h"
#include "kernels/detail/encode_tile_device.h"
#include "kernels/detail/mixed_precision_device.h"
#include "kernels/detail/sort_pairs_device.h"
#include "tests/kernels/host_block.h"
#include "tests/kernels/host_latents.h"
#include "tests/kernels/host_unit_rows.h"
#include "tests/kernels/step_backend.h"

namespace thresher::kernels {
namespace {

using detail::EncodeLists;
using detail::EncodePlace;
using detail::EncodeTask;

/// The sums of a tile, of all threads, as a plain loop over d in the order of the CPU.
template <class Tile>
struct HostProduct : Tile {
  HostProduct(const EncodeCase& in, std::int64_t first_row, const EncodePlace& place)
      : in_(&in),
        first_row_(first_row + place.first_row),
        end_latent_(place.end_latent),
        sums_(detail::kEncodeRows * Tile::kCols) {}

  void run(HostBlock&, std::int64_t first_latent) {
    for (std::uint32_t r = 0; r < detail::kEncodeRows; ++r) {
      for (std::uint32_t c = 0; c < Tile::kCols; ++c) {
        sums_[r * Tile::kCols + c] = one_sum(first_row_ + r, first_latent + c);
      }
    }
  }
  float sum(std::uint32_t thread, std::uint32_t i, std::uint32_t j) const {
    return sums_[Tile::row(thread, i) * Tile::kCols + Tile::col(thread, j)];
  }

 private:
  float one_sum(std::int64_t row, std::int64_t latent) const {
    if (row >= in_->rows || latent >= end_latent_) return 0.0f;
    float sum = 0.0f;
    for (std::int64_t p = 0; p < in_->d; ++p) {
      sum = std::fma(in_->x[static_cast<std::size_t>(row * in_->d + p)],
                     in_->W_enc[static_cast<std::size_t>(latent * in_->d + p)], sum);
    }
    return sum;
  }

  const EncodeCase* in_;
  std::int64_t first_row_, end_latent_;
  std::vector<float> sums_;
};

struct HostLists {
  HostLists(std::int64_t n_lists, std::int64_t k, const std::uint8_t* mask)
      : entries(static_cast<std::size_t>(n_lists * (k + detail::kSpareEntries)), 0xdeadU),
        counts(static_cast<std::size_t>(n_lists), 0xdeadU),
        lists{static_cast<std::uint32_t>(k), mask, entries.data(), counts.data()} {}
  std::vector<std::uint64_t> entries;
  std::vector<std::uint32_t> counts;
  EncodeLists lists;
};

void finish(const EncodeLists& lists, std::int64_t first_row, std::int64_t rows,
            std::int64_t splits, TopKOut& out) {
  std::uint32_t padded = 1;
  while (padded < lists.k) padded *= 2;
  std::vector<std::uint64_t> entries(padded);
  detail::TopKState state;
  for (std::int64_t row = 0; row < rows; ++row) {
    HostBlock block(64);
    const std::int64_t at = (first_row + row) * lists.k;
    detail::finish_row_block(block, lists, row, splits, padded, &state, entries.data(),
                             out.values.data() + at, out.indices.data() + at);
  }
}

class DeviceCodeStepBackend final : public StepBackend {
 public:
  std::string name() const override { return "DeviceCode"; }

  EncodeOut encode_topk(const EncodeCase& in) override {
    return in.type == OperandType::kFloat32 ? encode<detail::FusedTile>(in)
                                            : encode<detail::TensorTile>(in);
  }

  SortedPairs sort_pairs(std::int64_t n_latents, std::int64_t n_slots, const Offsets& row_offsets,
                         const std::vector<std::int32_t>& indices,
                         const std::vector<float>& values) override {
    const std::int64_t rows = rows_of(row_offsets);
    std::vector<std::uint32_t> keys;
    for (std::int64_t i = 0; i < n_slots; ++i) {
      keys.push_back(detail::pair_key(row_offsets[0] + i, row_offsets.back(), n_latents,
                                      indices.data(), values.data()));
    }
    std::vector<std::int32_t> order(keys.size());
    std::iota(order.begin(), order.end(), 0);
    // What CUB's sort stands for.
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return keys[static_cast<std::size_t>(a)] < keys[static_cast<std::size_t>(b)];
    });
    std::vector<std::uint32_t> sorted;
    for (const std::int32_t i : order) sorted.push_back(keys[static_cast<std::size_t>(i)]);
    SortedPairs out;
    for (std::int64_t latent = 0; latent <= n_latents; ++latent) {
      out.offsets.push_back(
          detail::keys_below(sorted.data(), n_slots, static_cast<std::uint32_t>(latent)));
    }
    for (std::int64_t i = 0; i < out.offsets.back(); ++i) {
      const std::int64_t slot = row_offsets[0] + order[static_cast<std::size_t>(i)];
      out.slots.push_back(static_cast<std::int32_t>(slot));
      out.rows.push_back(detail::row_of_slot(row_offsets.data(), rows, slot));
    }
    return out;
  }

  UpdateControl decide_update(const std::vector<double>& squares, double limit) override {
    const auto count = static_cast<std::int64_t>(squares.size());
    return detail::update_control(
        count == 0 ? 0.0 : detail::column_tree_sum(count, 1, 0, squares.data()), limit);
  }

  void adam(const AdamStep& step, const UpdateControl& control, const std::vector<float>& gradient,
            AdamArrays& arrays) override {
    detail::AdamFactors factors = detail::adam_factors(step);
    if (!detail::take_control(&control, factors)) return;
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      detail::adam_element(factors, gradient[i], arrays.weights[i], arrays.m[i], arrays.v[i]);
      if (!arrays.bfloat16.empty()) arrays.bfloat16[i] = detail::to_bfloat16(arrays.weights[i]);
    }
  }

  void adam_unit_rows(const AdamStep& step, const UpdateControl& control, std::int64_t cols,
                      const std::vector<float>& gradient, const std::vector<double>& factors,
                      bool renormalises, AdamArrays& arrays) override {
    detail::AdamFactors adam = detail::adam_factors(step);
    if (!detail::take_control(&control, adam)) return;
    update_unit_rows({static_cast<std::int64_t>(factors.size()), cols, adam, gradient.data(),
                      factors.data(), renormalises, arrays.weights.data(), arrays.m.data(),
                      arrays.v.data(), arrays.bfloat16.empty() ? nullptr : arrays.bfloat16.data()});
  }

  Components parallel_components(std::int64_t rows, std::int64_t cols, const std::vector<float>& W,
                                 const std::vector<float>& grad) override {
    Components out{std::vector<double>(static_cast<std::size_t>(rows), -1.0), 0};
    std::vector<double> squares(out.factors);
    row_components(rows, cols, W, grad, [&](std::int64_t row, double factor, double square) {
      out.factors[static_cast<std::size_t>(row)] = factor;
      squares[static_cast<std::size_t>(row)] = square;
    });
    out.squares = rows == 0 ? 0.0 : tree_sums(rows, 1, squares)[0];
    return out;
  }

  double sum_of_squares(std::int64_t rows, std::int64_t cols,
                        const std::vector<float>& values) override {
    const std::int64_t count = rows * cols;
    if (count == 0) return 0.0;
    const std::int64_t blocks = (count + detail::kSquaresPerBlock - 1) / detail::kSquaresPerBlock;
    std::vector<double> parts(static_cast<std::size_t>(blocks), -1.0);
    std::vector<double> sums(detail::kSquareThreads);
    for (std::int64_t i = 0; i < blocks; ++i) {
      HostBlock block(detail::kSquareThreads);
      detail::square_sum_block(block, i, count, values.data(), sums.data(), parts.data());
    }
    return tree_sums(blocks, 1, parts)[0];
  }

  std::vector<double> column_sums(std::int64_t rows, std::int64_t cols,
                                  const std::vector<float>* coefficients,
                                  const std::vector<float>& values) override {
    if (rows == 0) return std::vector<double>(static_cast<std::size_t>(cols), 0.0);
    const std::int64_t blocks = (rows + detail::kSumRows - 1) / detail::kSumRows;
    std::vector<double> parts;
    for (std::int64_t i = 0; i < blocks * cols; ++i) {
      parts.push_back(detail::column_block_sum(
          i / cols, rows, cols, i % cols, coefficients != nullptr ? coefficients->data() : nullptr,
          values.data()));
    }
    return tree_sums(blocks, cols, parts);
  }

  Residuals residuals(std::int64_t d, const Offsets& row_offsets,
                      const std::vector<std::int32_t>& indices, const std::vector<float>& values,
                      const std::vector<float>& W_dec, const std::vector<float>* bias,
                      const std::vector<float>& x, std::vector<std::uint16_t>& rounded) override {
    constexpr std::uint32_t kThreads = 96;
    Residuals out{std::vector<float>(x.size(), -1.0f), std::vector<float>(indices.size(), -1.0f)};
    const auto W = narrowed(W_dec);
    rounded.assign(x.size(), 0);
    const detail::ResidualTask task{d,
                                    row_offsets.data(),
                                    indices.data(),
                                    values.data(),
                                    W.data(),
                                    bias != nullptr ? bias->data() : nullptr,
                                    x.data(),
                                    out.residuals.data(),
                                    rounded.data(),
                                    out.dots.data()};
    std::vector<float> sums(kThreads);
    HostBlock block(kThreads);
    for (std::int64_t row = 0; row < rows_of(row_offsets); ++row) {
      if (d % 4 == 0) {
        detail::mixed_residual_block<4>(block, task, row, sums.data());
      } else {
        detail::mixed_residual_block<1>(block, task, row, sums.data());
      }
    }
    return out;
  }

  Gradients gradients(std::int64_t n_latents, std::int64_t d, const Lane& lane) override {
    const SortedLane sorted(lane, n_latents);
    const auto residuals = narrowed(lane.residuals), inputs = narrowed(lane.inputs);
    return sums_by_latent(n_latents, d, mixed_pairs(sorted, lane, residuals, inputs));
  }

  Centred centre_rows(std::int64_t, std::int64_t cols, const std::vector<float>& x,
                      const std::vector<float>* centre) override {
    Centred out;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float by = centre != nullptr ? (*centre)[i % static_cast<std::size_t>(cols)] : 0.0f;
      out.values.push_back(x[i] - by);
      out.bfloat16.push_back(detail::to_bfloat16(out.values.back()));
    }
    return out;
  }

 private:
  template <class Tile>
  EncodeOut encode(const EncodeCase& in) {
    EncodeOut out;
    for (const auto& [slots, k] : {std::pair{&out.main, in.k}, {&out.masked, in.masked_k}}) {
      slots->values.assign(static_cast<std::size_t>(in.rows * k), -7.0f);
      slots->indices.assign(slots->values.size(), -7);
    }
    const detail::EncodePlan plan = detail::plan_encode(in.rows, in.n_latents, in.k, in.masked_k,
                                                        Tile::kCols, 1 + calls_++ % 9);
    for (std::int64_t first = 0; first < in.rows; first += plan.rows) {
      encode_rows<Tile>(in, plan, first, std::min(plan.rows, in.rows - first), out);
    }
    return out;
  }

  template <class Tile>
  static void encode_rows(const EncodeCase& in, const detail::EncodePlan& plan, std::int64_t first,
                          std::int64_t rows, EncodeOut& out) {
    const bool is_masked = !in.mask.empty();
    const std::int64_t blocks =
        (rows + detail::kEncodeRows - 1) / detail::kEncodeRows * plan.splits;
    HostLists main(rows * plan.splits, in.k, nullptr);
    HostLists masked(rows * plan.splits, in.masked_k, in.mask.data());
    std::vector<std::uint64_t> movers(
        static_cast<std::size_t>(blocks * detail::kEncodeWarps * detail::kSpareEntries));
    const EncodeTask task{rows,
                          in.d,
                          in.n_latents,
                          plan.splits,
                          plan.split_latents,
                          in.b_enc.data(),
                          &out.not_numbers,
                          movers.data(),
                          is_masked ? 2 : 1,
                          {main.lists, masked.lists}};
    detail::EncodeState state;
    for (std::int64_t i = blocks - 1; i >= 0; --i) {  // no order of blocks may matter
      HostBlock block(detail::kEncodeThreads);
      const EncodePlace place = EncodePlace::of_block(task, i);
      HostProduct<Tile> product(in, first, place);
      detail::encode_block(block, task, place, product, &state);
    }
    finish(main.lists, first, rows, plan.splits, out.main);
    if (is_masked) finish(masked.lists, first, rows, plan.splits, out.masked);
  }

  static std::vector<double> tree_sums(std::int64_t blocks, std::int64_t cols,
                                       std::vector<double> parts) {
    while (true) {
      const std::int64_t groups = detail::tree_groups(blocks);
      std::vector<double> sums;
      for (std::int64_t i = 0; i < groups * cols; ++i) {
        sums.push_back(detail::column_group_sum(i / cols, blocks, cols, i % cols, parts.data()));
      }
      if (groups == 1) return sums;
      parts = std::move(sums);
      blocks = groups;
    }
  }

  std::int64_t calls_ = 0;  // every call is cut up in another way
};

}  // namespace

StepBackend* device_code_step_backend() {
  static DeviceCodeStepBackend backend;
  return &backend;
}

}  // namespace thresher::kernels
