#include <cmath>

#include "kernels/detail/adam_element.h"
#include "kernels/detail/column_sums_device.h"
#include "kernels/detail/decoder_norm_device.h"
#include "kernels/detail/sparse_decode_device.h"
#include "kernels/detail/topk_device.h"
#include "kernels/tree_sum.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/backends.h"
#include "tests/kernels/host_block.h"
#include "tests/kernels/host_latents.h"
#include "tests/kernels/host_unit_rows.h"

namespace thresher::kernels {
namespace {

class DeviceCodeBackend final : public Backend {
 public:
  std::string name() const override { return "DeviceCode"; }

  TopKOut topk(std::int64_t rows, std::int64_t cols, std::int64_t k,
               const std::vector<float>& pre_acts, const std::vector<std::uint8_t>* mask) override {
    TopKOut out{std::vector<float>(static_cast<std::size_t>(rows * k)),
                std::vector<std::int32_t>(static_cast<std::size_t>(rows * k))};
    std::uint32_t padded = 1;
    while (padded < k) padded *= 2;
    detail::TopKState state;
    std::vector<std::uint64_t> entries(padded);
    for (std::int64_t r = 0; r < rows; ++r) {
      HostBlock block(32);
      const detail::TopKRow row{pre_acts.data() + r * cols,
                                mask != nullptr ? mask->data() : nullptr,
                                static_cast<std::uint32_t>(cols)};
      detail::topk_block(block, row, static_cast<std::uint32_t>(k), padded, &state, entries.data(),
                         out.values.data() + r * k, out.indices.data() + r * k);
    }
    return out;
  }

  std::vector<float> sparse_decode(std::int64_t d, const Offsets& row_offsets,
                                   const std::vector<std::int32_t>& indices,
                                   const std::vector<float>& values,
                                   const std::vector<float>& W_dec,
                                   const std::vector<float>* bias) override {
    std::vector<float> recon;
    for (std::int64_t i = 0; i < rows_of(row_offsets) * d; ++i) {
      recon.push_back(detail::decode_element(row_offsets.data(), i / d, d, i % d, indices.data(),
                                             values.data(), W_dec.data(),
                                             bias != nullptr ? bias->data() : nullptr));
    }
    return recon;
  }

  std::vector<float> grad_values(std::int64_t d, const Offsets& row_offsets,
                                 const std::vector<std::int32_t>& indices,
                                 const std::vector<float>& grad_recon,
                                 const std::vector<float>& W_dec) override {
    constexpr std::uint32_t kThreads = 64;
    std::vector<float> out(indices.size(), -1.0f);
    std::vector<float> sums(kThreads);
    HostBlock block(kThreads);
    for (std::int64_t row = 0; row < rows_of(row_offsets); ++row) {
      detail::grad_values_block(block, row_offsets.data(), row, d, indices.data(),
                                grad_recon.data(), W_dec.data(), sums.data(), out.data());
    }
    return out;
  }

  Residuals residuals(std::int64_t d, const Offsets& row_offsets,
                      const std::vector<std::int32_t>& indices, const std::vector<float>& values,
                      const std::vector<float>& W_dec, const std::vector<float>* bias,
                      const std::vector<float>& x) override {
    constexpr std::uint32_t kThreads = 64;
    Residuals out{std::vector<float>(x.size(), -1.0f), std::vector<float>(indices.size(), -1.0f)};
    std::vector<float> sums(kThreads);
    HostBlock block(kThreads);
    for (std::int64_t row = 0; row < rows_of(row_offsets); ++row) {
      detail::residual_block(block, row_offsets.data(), row, d, indices.data(), values.data(),
                             W_dec.data(), bias != nullptr ? bias->data() : nullptr, x.data(),
                             sums.data(), out.residuals.data(), out.dots.data());
    }
    return out;
  }

  Gradients gradients(std::int64_t n_latents, std::int64_t d,
                      std::span<const Lane> lanes) override {
    const LaneViews views(lanes, n_latents);
    const auto n_lanes = static_cast<std::int64_t>(lanes.size());
    if (n_lanes == 1) return sums_by_latent(n_latents, d, views.pairs[0]);
    Gradients out;
    for (std::int64_t i = 0; i < n_latents * d; ++i) {
      const auto sum = detail::gradient_element(i / d, d, i % d, n_lanes, views.pairs.data());
      out.W_dec.push_back(sum.W_dec);
      out.W_enc.push_back(sum.W_enc);
    }
    for (std::int64_t latent = 0; latent < n_latents; ++latent) {
      out.b_enc.push_back(detail::bias_gradient(latent, n_lanes, views.pairs.data()));
    }
    return out;
  }

  std::vector<double> column_sums(std::int64_t rows, std::int64_t cols,
                                  const std::vector<float>* coefficients,
                                  const std::vector<float>& values) override {
    const std::int64_t blocks = (rows + detail::kSumRows - 1) / detail::kSumRows;
    std::vector<double> parts, sums;
    for (std::int64_t i = 0; i < blocks * cols; ++i) {
      parts.push_back(detail::column_block_sum(
          i / cols, rows, cols, i % cols, coefficients != nullptr ? coefficients->data() : nullptr,
          values.data()));
    }
    for (std::int64_t c = 0; c < cols; ++c) {
      sums.push_back(blocks == 0 ? 0.0 : detail::column_tree_sum(blocks, cols, c, parts.data()));
    }
    return sums;
  }

  std::vector<float> row_norms(std::int64_t rows, std::int64_t cols,
                               const std::vector<float>& W) override {
    std::vector<float> norms;
    for (const double square : squares(rows, cols, W)) {
      norms.push_back(static_cast<float>(std::sqrt(square)));
    }
    return norms;
  }

  std::vector<float> normalise_rows(std::int64_t rows, std::int64_t cols,
                                    std::vector<float> W) override {
    for_each_group(rows, cols, [&](HostBlock& block, const detail::RowGroup& group) {
      detail::normalise_rows_block(block, group, sums_.data(), W.data());
    });
    return W;
  }

  Components parallel_components(std::int64_t rows, std::int64_t cols, const std::vector<float>& W,
                                 const std::vector<float>& grad) override {
    Components out{std::vector<double>(static_cast<std::size_t>(rows), -1.0), 0};
    std::vector<double> squares(out.factors);
    for_each_group(rows, cols, [&](HostBlock& block, const detail::RowGroup& group) {
      detail::parallel_components_block(block, group, W.data(), grad.data(), sums_.data(),
                                        [&](std::int64_t row, double factor, double square) {
                                          out.factors[static_cast<std::size_t>(row)] = factor;
                                          squares[static_cast<std::size_t>(row)] = square;
                                        });
    });
    out.squares = tree_sum(squares);
    return out;
  }

  double sum_of_squares(std::int64_t rows, std::int64_t cols,
                        const std::vector<float>& values) override {
    return tree_sum(squares(rows, cols, values));
  }

  void adam(const AdamStep& step, const std::vector<float>& gradient, std::vector<float>& weights,
            std::vector<float>& m, std::vector<float>& v) override {
    const detail::AdamFactors factors = detail::adam_factors(step);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      detail::adam_element(factors, gradient[i], weights[i], m[i], v[i]);
    }
  }

  void adam_unit_rows(const AdamStep& step, std::int64_t cols, const std::vector<float>& gradient,
                      const std::vector<double>& factors, bool renormalises,
                      std::vector<float>& weights, std::vector<float>& m,
                      std::vector<float>& v) override {
    update_unit_rows({static_cast<std::int64_t>(factors.size()), cols, detail::adam_factors(step),
                      gradient.data(), factors.data(), renormalises, weights.data(), m.data(),
                      v.data(), nullptr});
  }

 private:
  static constexpr std::uint32_t kRowThreads = 32;

  template <class F>
  void for_each_group(std::int64_t rows, std::int64_t cols, F f) {
    HostBlock block(kRowThreads);
    for (std::int64_t row = 0; row < rows; row += kRowThreads / detail::kRowLanes) {
      f(block, detail::RowGroup{row, rows, cols});
    }
  }

  std::vector<double> squares(std::int64_t rows, std::int64_t cols, const std::vector<float>& W) {
    std::vector<double> out(static_cast<std::size_t>(rows), -1.0);
    for_each_group(rows, cols, [&](HostBlock& block, const detail::RowGroup& group) {
      detail::row_squares_block(
          block, group, W.data(), sums_.data(),
          [&](std::int64_t row, double sum) { out[static_cast<std::size_t>(row)] = sum; });
    });
    return out;
  }

  std::vector<double> sums_ = std::vector<double>(3 * kRowThreads);
};

}  // namespace

Backend* device_code_backend() {
  static DeviceCodeBackend backend;
  return &backend;
}

}  // namespace thresher::kernels
