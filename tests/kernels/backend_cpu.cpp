#include "kernels/column_sums.h"
#include "kernels/decoder_norm.h"
#include "kernels/topk.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/backends.h"

namespace thresher::kernels {
namespace {

class CpuBackend final : public Backend {
 public:
  std::string name() const override { return "Cpu"; }

  TopKOut topk(std::int64_t rows, std::int64_t cols, std::int64_t k,
               const std::vector<float>& pre_acts, const std::vector<std::uint8_t>* mask) override {
    TopKOut out{std::vector<float>(static_cast<std::size_t>(rows * k)),
                std::vector<std::int32_t>(static_cast<std::size_t>(rows * k))};
    if (mask == nullptr) {
      kernels::topk({}, rows, cols, k, pre_acts.data(), out.values.data(), out.indices.data());
    } else {
      kernels::topk_masked({}, rows, cols, k, pre_acts.data(), mask->data(), out.values.data(),
                           out.indices.data());
    }
    return out;
  }

  std::vector<float> sparse_decode(std::int64_t d, const Offsets& row_offsets,
                                   const std::vector<std::int32_t>& indices,
                                   const std::vector<float>& values,
                                   const std::vector<float>& W_dec,
                                   const std::vector<float>* bias) override {
    const std::int64_t rows = rows_of(row_offsets);
    std::vector<float> recon(static_cast<std::size_t>(rows * d), -1.0f);
    kernels::sparse_decode({}, rows, d, row_offsets.data(), indices.data(), values.data(),
                           W_dec.data(), bias != nullptr ? bias->data() : nullptr, recon.data());
    return recon;
  }

  std::vector<float> grad_values(std::int64_t d, const Offsets& row_offsets,
                                 const std::vector<std::int32_t>& indices,
                                 const std::vector<float>& grad_recon,
                                 const std::vector<float>& W_dec) override {
    std::vector<float> out(indices.size(), -1.0f);
    kernels::sparse_decode_grad_values({}, rows_of(row_offsets), d, row_offsets.data(),
                                       indices.data(), grad_recon.data(), W_dec.data(), out.data());
    return out;
  }

  Residuals residuals(std::int64_t d, const Offsets& row_offsets,
                      const std::vector<std::int32_t>& indices, const std::vector<float>& values,
                      const std::vector<float>& W_dec, const std::vector<float>* bias,
                      const std::vector<float>& x) override {
    Residuals out{std::vector<float>(x.size(), -1.0f), std::vector<float>(indices.size(), -1.0f)};
    kernels::sparse_residuals({}, rows_of(row_offsets), d, row_offsets.data(), indices.data(),
                              values.data(), W_dec.data(), bias != nullptr ? bias->data() : nullptr,
                              x.data(), out.residuals.data(), out.dots.data());
    return out;
  }

  Gradients gradients(std::int64_t n_latents, std::int64_t d,
                      std::span<const Lane> lanes) override {
    const LaneViews views(lanes, n_latents);
    Gradients out{std::vector<float>(static_cast<std::size_t>(n_latents * d), -1.0f), {}, {}};
    out.W_enc = out.W_dec;
    out.b_enc.assign(static_cast<std::size_t>(n_latents), -1.0f);
    accumulate_gradients({}, n_latents, d, static_cast<std::int64_t>(lanes.size()),
                         views.pairs.data(), out.W_dec.data(), out.W_enc.data(), out.b_enc.data());
    return out;
  }

  std::vector<double> column_sums(std::int64_t rows, std::int64_t cols,
                                  const std::vector<float>* coefficients,
                                  const std::vector<float>& values) override {
    std::vector<double> sums(static_cast<std::size_t>(cols), -1.0);
    kernels::column_sums({}, rows, cols, coefficients != nullptr ? coefficients->data() : nullptr,
                         values.data(), sums.data());
    return sums;
  }

  std::vector<float> row_norms(std::int64_t rows, std::int64_t cols,
                               const std::vector<float>& W) override {
    std::vector<float> norms(static_cast<std::size_t>(rows), -1.0f);
    kernels::row_norms({}, rows, cols, W.data(), norms.data());
    return norms;
  }

  std::vector<float> normalise_rows(std::int64_t rows, std::int64_t cols,
                                    std::vector<float> W) override {
    kernels::normalise_rows({}, rows, cols, W.data());
    return W;
  }

  Components parallel_components(std::int64_t rows, std::int64_t cols, const std::vector<float>& W,
                                 const std::vector<float>& grad) override {
    Components out{std::vector<double>(static_cast<std::size_t>(rows), -1.0), 0};
    out.squares =
        kernels::parallel_components({}, rows, cols, W.data(), grad.data(), out.factors.data());
    return out;
  }

  double sum_of_squares(std::int64_t rows, std::int64_t cols,
                        const std::vector<float>& values) override {
    return kernels::sum_of_squares({}, rows, cols, values.data());
  }

  void adam(const AdamStep& step, const std::vector<float>& gradient, std::vector<float>& weights,
            std::vector<float>& m, std::vector<float>& v) override {
    kernels::adam({}, step, static_cast<std::int64_t>(gradient.size()), gradient.data(),
                  weights.data(), m.data(), v.data());
  }

  void adam_unit_rows(const AdamStep& step, std::int64_t cols, const std::vector<float>& gradient,
                      const std::vector<double>& factors, bool renormalises,
                      std::vector<float>& weights, std::vector<float>& m,
                      std::vector<float>& v) override {
    const auto rows = static_cast<std::int64_t>(factors.size());
    kernels::adam_unit_rows({}, step, rows, cols, gradient.data(), factors.data(), renormalises,
                            weights.data(), m.data(), v.data());
  }
};

}  // namespace

Backend* cpu_backend() {
  static CpuBackend backend;
  return &backend;
}

}  // namespace thresher::kernels
